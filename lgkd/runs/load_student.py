"""Load a trained student from its folder, and locate the images that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd._internal.manifest import MANIFEST, tell_unverified
from lgkd._internal.safetensors_io import fill, load_weights
from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import InputError, MissingError
from lgkd.models.factory import check_plausible, create_model
from lgkd.models.trust import check_named_in
from lgkd.runs.folder import STUDENT, STUDENT_WEIGHTS, read_student


def load_student(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Load the trained student of a run, in eval mode, on the CPU.

    Args:
        folder: a run's folder, or an export's; student.json and student.safetensors are enough. With a MANIFEST.json
            beside them they are verified against it, otherwise a remark says that they could not be.
        model: an untrained model to fill, for runs of a module that was passed in Python.

    Raises:
        InputError: there is no finished run, its files are damaged, its weights do not fit or are not finite, or it
            names untrusted code, see `lgkd.models.trust`.
    """
    place = Path(folder)
    info = read_student(place)
    if not (place / MANIFEST).is_file():
        tell_unverified(place)
    if model is None and info["name"] is not None:
        check_named_in(place / STUDENT, info["name"])
    weights = load_weights(place / STUDENT_WEIGHTS, info["weights_sha256"])
    if model is None:
        if info["name"] is None:
            raise InputError(
                f"{place} is the run of a {info['class']} made in Python; pass one as "
                "load_student(folder, model=...) to fill it with the trained weights"
            )
        check_plausible(place / STUDENT, info["options"], info["num_classes"], info["image_size"], weights)
        with torch.random.fork_rng(devices=[]):
            model = create_model(
                info["name"],
                num_classes=info["num_classes"],
                image_size=(info["image_size"][0], info["image_size"][1]),
                options=info["options"],
            )
    fill(model, weights, str(place / STUDENT_WEIGHTS))
    return model.eval()


def data_of(info: Mapping[str, Any], folder: Path) -> str | Path:
    """Return the name or folder of the data that a run was trained on."""
    name, path = info["dataset"]["name"], info["dataset"]["path"]
    if path is None and name not in CATALOGUE:
        raise InputError(f"{folder} was trained on {name}, loaded in Python; name data to evaluate on with dataset=")
    if path is not None and not Path(path).exists():
        raise MissingError(f"the data that {folder} was trained on is no longer at {path}; name it with --dataset")
    return Path(path) if path is not None else str(name)
