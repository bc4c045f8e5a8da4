"""Leave out training images that are nearly a test image or another training image, on request."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lgkd._internal.atomic_io import json_sha256, write_json
from lgkd._internal.paths import home
from lgkd.data.checks.near_copies import LEAST_LIKENESS, MOST_BITS, places_of_copies
from lgkd.data.dataset import DataSet, Images
from lgkd.errors import DataError

_FORMAT = 1


class LeftOut(NamedTuple):
    """Hold training images that are left out, because nearly or exactly the same image is elsewhere."""

    of_test: tuple[int, ...]
    """Places of those that are nearly a test image."""
    of_train: tuple[int, ...]
    """Places of the others that are nearly an earlier training image."""


def without_near_copies(dataset: DataSet) -> tuple[Images, LeftOut, str]:
    """Return the remaining and the left-out training images, and a line to report; the test split stays whole.

    Images are compared once for a fingerprint: the result is kept in the user's store.

    Raises:
        DataError: a class would have no images left.
    """
    left_out = _read(dataset)
    if left_out is None:
        of_test, of_train = places_of_copies(dataset.train, dataset.test)
        left_out = LeftOut(tuple(of_test), tuple(of_train))
        _keep(dataset, left_out)
    stays = torch.ones(len(dataset.train), dtype=torch.bool)
    stays[torch.tensor([*left_out.of_test, *left_out.of_train], dtype=torch.int64)] = False
    _check_classes(dataset, stays)
    said = (
        f"left out of training: {len(left_out.of_test):,} near copies of test images and {len(left_out.of_train):,} of "
        f"other training images; {int(stays.sum()):,} images stay, and the test split is whole"
    )
    images = dataset.train if bool(stays.all()) else dataset.train.take(stays.nonzero().flatten())
    return images, left_out, said


def _check_classes(dataset: DataSet, stays: torch.Tensor) -> None:
    number = len(dataset.classes)
    labels = dataset.train.labels
    before, after = (part.sum(0) if part.ndim == 2 else torch.bincount(part, minlength=number)
                     for part in (labels, labels[stays]))  # fmt: skip
    empty = ((before > 0) & (after == 0)).nonzero().flatten().tolist()
    if empty:
        raise DataError(
            f"every training image of the class {dataset.classes[empty[0]]!r} is a near copy of another image; train "
            "without --leave-out-near-copies, or give that class other images"
        )


def _place(dataset: DataSet) -> Path | None:
    if not re.fullmatch("[0-9a-f]{64}", dataset.fingerprint):
        return None
    return home() / "cache" / "checks" / f"{dataset.fingerprint}-near.json"


def _about(dataset: DataSet) -> dict[str, Any]:
    """List the settings that the result depends on."""
    return {
        "format": _FORMAT,
        "fingerprint": dataset.fingerprint,
        "train": len(dataset.train),
        "bits": MOST_BITS,
        "likeness": LEAST_LIKENESS,
    }


def _read(dataset: DataSet) -> LeftOut | None:
    """Read the stored result; None where it is missing, damaged or of something else."""
    place = _place(dataset)
    if place is None:
        return None
    try:
        record = json.loads(place.read_text("utf-8"))
        found = [_places(record[name]) for name in LeftOut._fields]
        wanted = {**_about(dataset), **dict(zip(LeftOut._fields, found, strict=True))}
        return LeftOut(*map(tuple, found)) if record.get("sha256") == json_sha256(wanted) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _places(value: Sequence[int]) -> list[int]:
    return [int(place) for place in value]


def _keep(dataset: DataSet, left_out: LeftOut) -> None:
    place = _place(dataset)
    if place is None:
        return
    record = {**_about(dataset), **{name: list(places) for name, places in left_out._asdict().items()}}
    with suppress(OSError):  # a store that cannot be written only costs time at the next training
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {**record, "sha256": json_sha256(record)})
