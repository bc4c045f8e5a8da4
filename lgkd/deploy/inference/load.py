"""Load a student for predictions: from a run's folder, an exported folder, or one exported file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.manifest import compare, read_manifest, tell_unverified
from lgkd.data.decode import DEFAULT_SIDE
from lgkd.data.greys import Greys, read_greys
from lgkd.data.transforms.augment import Plain
from lgkd.deploy.inference.locate import ONNX, Place
from lgkd.deploy.inference.onnx import OnnxStudent
from lgkd.errors import InputError
from lgkd.runs.folder import EXPORT, read_student
from lgkd.runs.load_student import load_student


@dataclass(frozen=True)
class Source:
    """Hold a trained student, and the way its images are made.

    Attributes:
        logits: normalised images (B,3,H,W) on `device` -> (B,K).
        classes: their names.
        plain: resizes and normalises, as in evaluation.
        longest_side: of the images as they are decoded, in pixels.
        greys: how greys of more than 8 bits are scaled to 8.
        device: that it computes on.
        multi_label: its logits are independent of each other, each for a sigmoid: an image may have several classes.
    """

    logits: Callable[[Tensor], Tensor]
    classes: tuple[str, ...]
    plain: Plain
    longest_side: int
    greys: Greys
    device: str
    multi_label: bool = False

    def confidences(self, logits_BK: Tensor) -> Tensor:
        """Return the probability of every class, (B,K): softmax, or of several labels an image the sigmoid of each."""
        return logits_BK.sigmoid() if self.multi_label else logits_BK.softmax(dim=1)


def open_source(place: Place, *, device: str, model: nn.Module | None = None) -> Source:
    """Read a student.

    Args:
        place: returned by `find_source`.
        device: "cpu", "cuda" or "cuda:N"; ONNX files are run on a CPU.
        model: as for `load_student`.

    Raises:
        InputError: its files are damaged, do not fit, or name code that nobody else has named.
    """
    if place.file == ONNX:
        path = place.folder / place.name
        student = OnnxStudent(exported_bytes(path), path)
        return _source(student, student.about, path, "cpu")
    about = read_student(place.folder)
    module = load_student(place.folder, model=model).to(device)
    return _source(module, about, place.folder, device)


def exported_bytes(path: Path) -> bytes:
    """Read an exported file, and compare it with the checksum of its export where that is stored.

    Raises:
        InputError: the checksum differs, or the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected an exported student") from None
    manifest = read_manifest(path.parent)
    if manifest is not None and path.name in manifest:
        compare(path, manifest, data)
    elif (expected := exported_sha256(path)) is None:
        tell_unverified(path)
    elif (found := sha256(data).hexdigest()) != expected:
        raise InputError(
            f"{path}: has SHA-256 {found}, expected {expected} by the {EXPORT} beside it; it is damaged or was "
            "changed, export it again"
        )
    return data


def exported_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file by the export.json beside it; None where it has none."""
    try:
        found = json.loads((path.parent / EXPORT).read_bytes())["files"][path.name]["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _source(logits: Callable[[Tensor], Tensor], about: dict[str, Any], origin: Path, device: str) -> Source:
    classes = about["classes"]
    if len(classes) != about["num_classes"] or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{origin} names {len(classes)} classes and has {about['num_classes']}; it is damaged")

    @torch.no_grad()
    def computed(images: Tensor) -> Tensor:
        found = logits(images).float().cpu()
        if not found.isfinite().all():
            raise InputError(
                f"{origin} answers with numbers that are not finite; its weights are damaged, train it again"
            )
        return found

    longest, greys = longest_side_of(about, origin), read_greys(about, origin)
    return Source(
        computed, tuple(classes), plain_of(about), longest, greys, device, multi_label=bool(about.get("multi_label"))
    )


def plain_of(about: dict[str, Any]) -> Plain:
    """Return the preprocessing of a student's images, from its student.json."""
    height, width = about["image_size"]
    return Plain((height, width), mean=about["mean"], std=about["std"], interpolation=about["interpolation"])


def longest_side_of(about: dict[str, Any], origin: Path) -> int:
    """Return the number of pixels to which the longer side of larger images is scaled down in decoding.

    Runs of older versions do not record it; there it is that of data sets of images of different sizes.
    """
    side = about.get("longest_side", DEFAULT_SIDE)
    if type(side) is not int or side < 1:
        raise InputError(f"{origin} has a longest_side of {side!r}, expected pixels; it is damaged or something else")
    return side
