"""Load a teacher of timm with weights that were trained on other images, such as ImageNet's.

Only safetensors files are read, which hold no program.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgkd._internal.atomic_io import sha256_of
from lgkd._internal.safetensors_io import load_weights
from lgkd._internal.text import did_you_mean, first_line, safe_text
from lgkd.errors import MissingError, ModelError
from lgkd.models.teacher import Teacher

HUB_FILE = "model.safetensors"


def load_pretrained_teacher(name: str, file: Path | None, *, offline: bool = False, stand_in: bool = False) -> Teacher:
    """Build a frozen teacher of timm, with the image size and the normalisation of its training.

    Args:
        name: `timm:NAME`.
        file: its weights, under timm's names; None: timm's own ones, from the cache of Hugging Face's hub, into which
            they are downloaded.
        offline: open no connection.
        stand_in: for a dry run: open no connection, and leave weights that are not here untrained.

    Raises:
        MissingError: timm's weights are not here and cannot be downloaded.
        ModelError: timm has no such model, no weights for it, or the weights are those of another model.
        InputError: the file cannot be read or is damaged.
        TapError: it has no layers to guide by.
    """
    import timm

    known = name.removeprefix("timm:")
    if not timm.is_model(known):
        raise ModelError(f"timm has no model {known!r}; {did_you_mean(known, timm.list_models())}")
    config = timm.get_pretrained_cfg(known)
    if config is None:
        raise ModelError(
            f"timm states no image size and no normalisation of {name}; make an lgkd.Teacher of it in Python, with both"
        )
    facts: dict[str, Any] = dataclasses.asdict(config)
    weights = "pretrained" if file is None else str(file)
    sha256 = tensors = None
    try:
        place = _from_hub(name, facts.get("hf_hub_id"), offline=offline or stand_in) if file is None else file
        sha256 = sha256_of(place)
        tensors = load_weights(place, sha256)
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); make it readable, or take a copy") from None
    except MissingError:
        if not stand_in:
            raise
    model = _built(known, facts, tensors, name, weights)
    height, width = facts["input_size"][1:]
    teacher = Teacher(model.eval(), image_size=(height, width), mean=facts["mean"], std=facts["std"])
    teacher.source = {"name": name, "weights": weights} | ({} if sha256 is None else {"sha256": sha256})
    return teacher


def _from_hub(name: str, repository: str | None, *, offline: bool) -> Path:
    """Return the file of timm's own weights in the hub's cache, downloaded if need be."""
    if not repository:
        raise ModelError(f"timm has no weights of {name}; name a file of them with --teacher-weights FILE")
    from huggingface_hub import hf_hub_download

    try:
        # Public files: no token of the user's is sent.
        return Path(hf_hub_download(repository, HUB_FILE, local_files_only=offline, token=False))
    except Exception as error:  # of the network, the server, the disk
        where = (
            "and lgkd is offline"
            if offline
            else f"and could not be downloaded ({first_line(error.__cause__ or error)})"
        )
        raise MissingError(
            f"timm's weights of {name} are not here, {where}: get https://huggingface.co/{repository} {HUB_FILE} and "
            "name that file with --teacher-weights"
        ) from None


def _built(
    known: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, name: str, origin: str
) -> torch.nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if tensors is None:
            return timm.create_model(known)
        wild = sorted(key for key, value in tensors.items() if not torch.isfinite(value).all())
        if wild:
            raise ModelError(
                f"{origin} holds numbers that are not finite ({safe_text(wild[0], 200)}, {len(wild)} tensors in all); "
                "take it from a copy"
            )
        head = facts.get("classifier")
        weight = tensors.get(f"{head}.weight") if isinstance(head, str) else None
        classes = int(weight.shape[0]) if weight is not None and weight.ndim else int(facts["num_classes"])
        overlay = {"state_dict": dict(tensors), "num_classes": classes, "label_offset": 0}
        try:
            made: torch.nn.Module = timm.create_model(
                known, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
            )
        except (RuntimeError, KeyError, AttributeError) as error:
            lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
            raise ModelError(
                f"{origin} does not fit {name} ({' '.join(lines[:2])[:300]}); name the model that the weights are of"
            ) from None
    return made
