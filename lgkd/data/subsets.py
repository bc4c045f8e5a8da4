"""Choose parts of a split: class-balanced subsets and a held-out part. Pure functions of images and seed."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lgkd._internal.rng import permutation, seed_of
from lgkd.data.dataset import Images
from lgkd.data.grouped_split import split_by_groups
from lgkd.data.groups import Groups
from lgkd.data.multi_label_split import rarest_class, stratified_parts
from lgkd.data.names import Subset
from lgkd.errors import DataError, InputError


def select_subset(images: Images, subset: Subset, *, classes: Sequence[str] = ()) -> Images:
    """Select a part of `images` that keeps the balance of the classes, in the order of `images`.

    With the same seed, the larger of two subsets contains the smaller one, so a learning curve adds images
    and exchanges none.

    Args:
        images: to select from, without the near copies that are left out.
        subset: a fraction of a class is rounded to the nearest count and at least one image.
        classes: their names, for messages.

    Raises:
        InputError: a class holds fewer images than asked for.
    """
    fraction, per_class = subset.fraction, subset.per_class
    if per_class is None and (fraction is None or fraction == 1):
        return images
    chosen = []
    if images.multi_label and per_class is not None:
        raise InputError(
            f"--images-per-class {per_class} counts images of one class each, and here an image has several; ask for a "
            "share of the images with --fraction"
        )
    # Of several labels the rarest counts, so that no class is lost, and a larger part contains a smaller one.
    labels = rarest_class(images.labels) if images.multi_label else images.labels
    for label, members in _by_class(labels):
        if per_class is not None and per_class > len(members):
            raise InputError(
                f"{per_class} images per class were asked for, but {_describe(images, label, members, classes)} holds "
                f"{len(members)}: ask for fewer, or for a fraction"
            )
        count = per_class if per_class is not None else max(1, _nearest(fraction, len(members)))
        chosen.append(_shuffled(members, seed_of(subset.seed, "subset", label))[:count])
    return images.take(torch.cat(chosen).sort().values)


def hold_out(
    images: Images, fraction: float, seed: int = 0, *, classes: Sequence[str] = (), groups: Groups | None = None
) -> tuple[Images, Images]:
    """Split `images` in two: (the rest, the held-out part), each in the order of `images`.

    Args:
        images: to split.
        fraction: share of every class to hold out, in (0, 1); rounded to the nearest count, but every class
            keeps at least one image on each side.
        seed: selects one of the many splits.
        classes: their names, for messages and groups.
        groups: hold out whole groups, every class as nearly in that share as they allow; each keeps at least one image
            in the rest.

    Raises:
        InputError: the fraction is out of range.
        DataError: a class has fewer than two images, or the groups cannot be divided.
    """
    if groups is not None:
        of = groups.of(images.names, class_names(images.labels, classes))
        rest, held = held_out_groups(images.labels, of, fraction, seed, classes)
        return images.take(rest), images.take(held)
    rest, held = held_out_places(
        images.labels, fraction, seed, lambda label, members: _describe(images, label, members, classes)
    )
    return images.take(rest), images.take(held)


def held_out_places(
    labels: Tensor, fraction: float, seed: int, describe: Callable[[int, Tensor], str]
) -> tuple[Tensor, Tensor]:
    """Return the places of `hold_out`: int64 (rest,) and int64 (held out,), ascending.

    Args:
        labels: int64 (N,); or of several labels an image (N,K), which are divided by `stratified_parts`.
        fraction: as in `hold_out`.
        seed: as in `hold_out`.
        describe: names a class for a message, from its label and the places of its images.
    """
    _check_fraction(fraction)
    if labels.ndim == 2:
        part = stratified_parts(labels, (1 - fraction, fraction), seed_of(seed, "hold out"))
        if not bool((part == 0).any()) or not bool((part == 1).any()):
            raise DataError(f"{len(labels)} images cannot be divided into two parts; expected more: add images")
        return (part == 0).nonzero().flatten(), (part == 1).nonzero().flatten()
    rest, held = [], []
    for label, members in _by_class(labels):
        if len(members) < 2:
            raise DataError(f"{describe(label, members)} holds 1 image: a class needs at least 2 to hold one out")
        count = min(max(1, _nearest(fraction, len(members))), len(members) - 1)
        order = _shuffled(members, seed_of(seed, "hold out", label))
        held.append(order[:count])
        rest.append(order[count:])
    return torch.cat(rest).sort().values, torch.cat(held).sort().values


def held_out_groups(
    labels: Tensor, groups: Sequence[str], fraction: float, seed: int, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the places of `hold_out` with groups: int64 (rest,) and int64 (held out,), ascending."""
    _check_fraction(fraction)
    part = split_by_groups(
        labels, groups, (1 - fraction, fraction), seed_of(seed, "hold out"), classes=classes, trained_on=0
    )
    return (part == 0).nonzero().flatten(), (part == 1).nonzero().flatten()


def class_names(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the class of every image; "" for images that may have several labels."""
    return [""] * len(labels) if labels.ndim == 2 else [classes[label] for label in labels.tolist()]


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise InputError(f"the fraction to hold out is {fraction}, expected a number between 0 and 1")


def _by_class(labels: Tensor) -> list[tuple[int, Tensor]]:
    """Return every label that occurs, with the places of its images, ascending."""
    if len(labels) == 0:
        raise DataError("there are no images to choose from: give a split that holds some")
    values, counts = torch.unique(labels, return_counts=True)
    groups = torch.split(torch.argsort(labels, stable=True), counts.tolist())
    return list(zip(values.tolist(), groups, strict=True))


def _shuffled(members: Tensor, seed: int) -> Tensor:
    return members[permutation(seed, len(members))]


def _nearest(fraction: float | None, count: int) -> int:
    # Halves are rounded up: Python's round() rounds to even, and counts would not grow evenly with the fraction.
    return math.floor((fraction or 0.0) * count + 0.5)


def _describe(images: Images, label: int, members: Tensor, classes: Sequence[str]) -> str:
    if classes:
        return f"the class {classes[label]!r}"
    return f"class {label} (with {images.names[int(members[0])]!r})"
