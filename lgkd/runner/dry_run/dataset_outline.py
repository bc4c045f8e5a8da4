"""A data set as its listing shows it: nothing is decoded, downloaded or kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lgkd.data.catalogue import CATALOGUE, DataSetInfo, bundled, published
from lgkd.data.dataset import DataSet, Images
from lgkd.data.decode import DEFAULT_SIDE, survey
from lgkd.data.greys import Scale
from lgkd.data.image_folder import read_classes
from lgkd.data.load import both_splits, find_tree, load_dataset
from lgkd.data.locations import absent, files_here, tree_folder
from lgkd.data.sources.download import is_offline
from lgkd.data.subsets import hold_out, subset

_LOOKED_AT = 32
"""Files whose size is looked at; the others are taken to be like them."""


@dataclass(frozen=True)
class Outline:
    """What can be known of a data set before an image of it is decoded.

    Attributes:
        name: as in runs.
        classes: names; made up where only their number is known.
        named: whether they are the real ones.
        train: labels of the training images, int64 (N,); `test` as many.
        test: images in the test split.
        side: (height, width) of a stored image, in pixels.
        where: in words.
        fingerprint: of images that are in memory already; None where they would have to be decoded for it.
        notes: what the user should hear.
        largest_class: share of the test images that are of the most frequent class; None where it is not known.
    """

    name: str
    classes: tuple[str, ...]
    named: bool
    train: Tensor
    test: int
    side: tuple[int, int]
    where: str
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None
    largest_class: float | None = None

    @property
    def decoded_bytes(self) -> int:
        """What the decoded images take on the disk."""
        return 3 * self.side[0] * self.side[1] * (len(self.train) + self.test)


def outline(source: str | Path | DataSet, *, data_dir: str | Path | None, offline: bool) -> Outline:
    """Look at a data set without decoding it.

    Raises:
        MissingError: it is not here, and would not be downloaded.
        DataError: its folder is no data set.
    """
    info = CATALOGUE.get(source) if isinstance(source, str) else None
    if info is not None and bundled(info):
        source = load_dataset(info.name)
    if isinstance(source, DataSet):
        side = (int(source.train.pixels.shape[2]), int(source.train.pixels.shape[3]))
        return Outline(
            source.name, source.classes, True, source.train.labels, len(source.test), side, "in memory",
            fingerprint=source.fingerprint, largest_class=source.test.largest_class,
        )  # fmt: skip
    if info is not None and tree_folder(info, data_dir) is None and published(info):
        return _published(info, data_dir, offline=offline)
    name, tree = find_tree(source, data_dir=data_dir)
    train, test, notes = both_splits(tree)
    labels = torch.tensor([file.label for file in train], dtype=torch.int64)
    side, broken = _side_of(tree.root, [file.path for file in (*train, *test)])
    largest = max(Counter(file.label for file in test).values(), default=0) / max(len(test), 1)
    return Outline(
        name, tree.classes, True, labels, len(test), side, str(tree.root), (*notes, *broken), largest_class=largest
    )


def _published(info: DataSetInfo, data_dir: str | Path | None, *, offline: bool) -> Outline:
    """By the catalogue, since the publisher's files are not opened for this."""
    here = files_here(info, data_dir)
    if here is None and is_offline(offline):
        raise absent(info, data_dir, offline=offline)
    size = sum(file.bytes for file in published(info)) / 1e6
    where = f"the publisher's files in {here}" if here is not None else f"not here; {size:,.0f} MB would be downloaded"
    classes = tuple(f"class {number}" for number in range(info.classes))
    labels = torch.arange(info.train) % info.classes
    return Outline(info.name, classes, False, labels, info.test, (info.image_size, info.image_size), where)


def _side_of(root: Path, paths: Sequence[str]) -> tuple[tuple[int, int], list[str]]:
    """The canvas on which images will be stored, by some of them, and a note on those that cannot be read."""
    some = [paths[place] for place in torch.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).long().tolist()]
    looks = survey(root, some, scale=Scale(len(some)))
    sizes = {(look.height, look.width) for look in looks if not isinstance(look, str)}
    broken = [
        f"{name} cannot be read ({look})" for name, look in zip(some, looks, strict=True) if isinstance(look, str)
    ]
    notes = [f"{broken[0]}; `lgkd check` lists all such files"] if broken else []
    if not sizes:
        return (DEFAULT_SIDE, DEFAULT_SIDE), notes
    if len(sizes) == 1:
        return sizes.pop(), notes
    # As `lgkd.data.decode` does: a square canvas, and what is longer is scaled down.
    side = min(DEFAULT_SIDE, max(max(size) for size in sizes))
    return (side, side), notes


@dataclass(frozen=True)
class Counts:
    """How many images take part.

    Attributes:
        train: of every class, in the order of the classes.
        held_out: to choose the epoch on.
        extra: beside the data set's own.
    """

    train: tuple[int, ...]
    held_out: int
    extra: int


def count(
    found: Outline,
    *,
    fraction: float | None,
    images_per_class: int | None,
    subset_seed: int,
    val_fraction: float | None,
    extra: str | Path | None,
) -> Counts:
    """Choose the part to train on as a training would, by labels alone.

    Raises:
        InputError: a part that cannot be had.
    """
    chosen = subset(
        stubs(found.train, found.classes),
        fraction=fraction,
        per_class=images_per_class,
        seed=subset_seed,
        classes=found.classes,
    )
    held = 0
    if val_fraction is not None:
        chosen, val = hold_out(chosen, val_fraction, subset_seed, classes=found.classes)
        held = len(val)
    more = 0
    if extra is not None and found.named:
        more = len(read_classes(Path(extra).expanduser(), found.classes).train)
    return Counts(tuple(torch.bincount(chosen.labels, minlength=len(found.classes)).tolist()), held, more)


def stubs(labels: Tensor, classes: Sequence[str]) -> Images:
    """Images of which there is nothing but their labels, int64 (N,)."""
    number = len(labels)
    return Images(
        torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(number, -1, -1, -1),
        torch.ones(number, 2, dtype=torch.int32),
        labels,
        tuple(classes[label] for label in labels.tolist()),
    )


def stand_in(found: Outline, number: int, draw: Callable[[int, int, torch.Generator], Tensor]) -> DataSet:
    """A small data set of made images, of the same size and classes, to measure with.

    Args:
        found: what it stands in for.
        number: of images, in each split.
        draw: gives uint8 (N,3,S,S) from a number, a side and a generator.
    """
    height, width = found.side
    chance = torch.Generator().manual_seed(0)
    pixels = draw(number, max(height, width), chance)[:, :, :height, :width].contiguous()
    some = Images(
        pixels,
        torch.tensor([[height, width]], dtype=torch.int32).repeat(number, 1),
        torch.arange(number) % len(found.classes),
        ("a made image",) * number,
    )
    return DataSet(found.name, found.classes, some, some, "", ())
