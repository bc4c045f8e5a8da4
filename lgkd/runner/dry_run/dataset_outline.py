"""Outline a data set from its file listing: nothing is decoded, downloaded or stored."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from lgkd.data.catalogue import CATALOGUE, DataSetInfo, bundled, published
from lgkd.data.dataset import DataSet, Images
from lgkd.data.decode import DEFAULT_SIDE, survey
from lgkd.data.folds import fold_of
from lgkd.data.greys import Scale
from lgkd.data.groups import Groups
from lgkd.data.image_folder import read_classes
from lgkd.data.listing import Listing
from lgkd.data.load import both_splits, groups_of, labels_of, load_dataset
from lgkd.data.locations import absent, files_here, tree_folder
from lgkd.data.names import Subset
from lgkd.data.prepare import check_groups, chosen_val
from lgkd.data.sources.download import is_offline
from lgkd.data.sources.source import find_source
from lgkd.data.subsets import hold_out, select_subset
from lgkd.runner.options import Options

_LOOKED_AT = 32
"""Number of files whose size is read; the others are assumed to be similar."""


@dataclass(frozen=True)
class Outline:
    """Hold the facts about a data set that are known without decoding an image.

    Attributes:
        name: as in run.json.
        classes: names; placeholders where only their number is known.
        named: whether the names are real.
        train: labels of the training images, int64 (N,); of several labels an image float32 (N,K).
        test: images in the test split.
        side: (height, width) of a stored image, in pixels.
        where: the location, as text.
        fingerprint: of images that are in memory already; None where they would have to be decoded.
        notes: remarks for the user.
        largest_class: share of the test images in the most frequent class; None where unknown.
        names: of the training images; empty where unknown.
        held: labels, int64 (M,), and names of the test images, where they are known.
        flat: whether the test split is held out of one folder.
        val: images of a given split that selects the epoch.
        groups: those that the data set has.
        short_side: median shorter side of the images as they are on the disk, in pixels.
        grey: all images looked at are grey.
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
    names: tuple[str, ...] = ()
    held: tuple[Tensor, tuple[str, ...]] | None = None
    flat: bool = False
    val: int = 0
    groups: Groups | None = None
    short_side: int = DEFAULT_SIDE
    grey: bool = False

    @property
    def decoded_bytes(self) -> int:
        """Return the size of the decoded images on disk."""
        return 3 * self.side[0] * self.side[1] * (len(self.train) + self.test)


def outline(
    source: str | Path | DataSet,
    *,
    data_dir: str | Path | None,
    offline: bool,
    groups: Groups | None = None,
    downloads: bool = False,
) -> Outline:
    """Outline a data set without decoding it; one of the hub is downloaded with `downloads` alone.

    Raises:
        MissingError: it is not here, and would not be downloaded.
        DataError: its folder is not a data set.
    """
    info = CATALOGUE.get(source) if isinstance(source, str) else None
    if info is not None and bundled(info):
        source = load_dataset(info.name)
    if isinstance(source, DataSet):
        side = (int(source.train.pixels.shape[2]), int(source.train.pixels.shape[3]))
        return Outline(
            source.name, source.classes, True, source.train.labels, len(source.test), side, "in memory",
            fingerprint=source.fingerprint, largest_class=source.test.largest_class, names=source.train.names,
            held=(source.test.labels, source.test.names), flat=source.flat, groups=source.groups,
            val=len(source.val) if source.val is not None else 0,
            short_side=int(source.train.sizes.min(dim=1).values.median()), grey=_is_grey(source.train),
        )  # fmt: skip
    if info is not None and tree_folder(info, data_dir) is None and published(info):
        return _published(info, data_dir, offline=offline)
    found = find_source(source, data_dir=data_dir, offline=offline or not downloads)
    listing = found.listing()
    own = groups_of(listing)
    train, test, notes = both_splits(listing, own if groups is None else groups.of_images(listing.groups))
    labels, held = labels_of(listing, train), labels_of(listing, test)
    sample = _look_at_some(listing, [file.path for file in (*train, *test)])
    numbers = held.nonzero()[:, 1] if held.ndim == 2 else held
    largest = max(Counter(numbers.tolist()).values(), default=0) / max(len(test), 1)
    return Outline(
        found.name, listing.classes, True, labels, len(test), sample.side,
        str(listing.root) if listing.key is None else found.text, (*notes, *sample.notes),
        largest_class=largest, names=tuple(file.path for file in train), flat=listing.test is None,
        val=len(listing.val or ()), groups=own,
        held=(held, tuple(file.path for file in test)),
        short_side=sample.short_side, grey=sample.grey,
    )  # fmt: skip


def _published(info: DataSetInfo, data_dir: str | Path | None, *, offline: bool) -> Outline:
    """Outline a named data set from the catalogue, since the publisher's files are not opened for this."""
    here = files_here(info, data_dir)
    if here is None and is_offline(offline):
        raise absent(info, data_dir, offline=offline)
    size = sum(file.bytes for file in published(info)) / 1e6
    where = f"the publisher's files in {here}" if here is not None else f"not here; {size:,.0f} MB would be downloaded"
    classes = tuple(f"class {number}" for number in range(info.classes))
    labels = torch.arange(info.train) % info.classes
    side = info.image_size
    return Outline(info.name, classes, False, labels, info.test, (side, side), where, short_side=side)


def _is_grey(images: Images) -> bool:
    """Check some stored images: the three channels of each are equal."""
    some = images.pixels[:: max(1, len(images) // _LOOKED_AT)]
    return bool((some[:, :1] == some).all())


class _Sample(NamedTuple):
    """Describe a sample of files; the fields are those of `Outline`."""

    side: tuple[int, int]
    notes: list[str]
    short_side: int
    grey: bool


def _look_at_some(listing: Listing, paths: Sequence[str]) -> _Sample:
    """Estimate the stored image size from a sample, with a note on images that cannot be read."""
    some = [paths[place] for place in torch.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).long().tolist()]
    looks = survey(listing.root, some, read=listing.read, scale=Scale(len(some)))
    read = [look for look in looks if not isinstance(look, str)]
    sizes = {(look.height, look.width) for look in read}
    broken = [
        f"{name} cannot be read ({look})" for name, look in zip(some, looks, strict=True) if isinstance(look, str)
    ]
    notes = [f"{broken[0]}; `lgkd check` lists all such files"] if broken else []
    if not read:
        return _Sample((DEFAULT_SIDE, DEFAULT_SIDE), notes, DEFAULT_SIDE, grey=False)
    short = round(median(min(look.height, look.width) for look in read))
    grey = all("grey" in look.kinds for look in read)
    if len(sizes) == 1:
        return _Sample(sizes.pop(), notes, short, grey)
    # As `lgkd.data.decode` does: a square canvas, to which larger images are scaled down.
    side = min(DEFAULT_SIDE, max(max(size) for size in sizes))
    return _Sample((side, side), notes, short, grey)


@dataclass(frozen=True)
class Counts:
    """Count the images that are used.

    Attributes:
        train: of every class, in the order of the classes.
        held_out: to choose the epoch on.
        extra: additional images.
        test: tested on.
        images: to train on; with several labels an image fewer than their sum over classes, or more.
    """

    train: tuple[int, ...]
    held_out: int
    extra: int
    test: int
    images: int


def count(
    found: Outline,
    subset: Subset,
    *,
    val_fraction: float | None = None,
    extra: str | Path | None = None,
    groups: Groups | None = None,
) -> Counts:
    """Select the subset to train on as a training would, from labels alone.

    Raises:
        InputError: the subset is impossible.
    """
    known, tested = stubs(found.train, found.classes, found.names), found.test
    if groups is None or groups.kind == "column":
        groups = found.groups
    if subset.fold is not None:
        held_out = stubs(*_held(found)) if found.flat else known.take(torch.empty(0, dtype=torch.int64))
        whole = DataSet(found.name, found.classes, known, held_out, "", (), flat=found.flat)
        folded = fold_of(whole, subset, groups if found.names else None)
        known, tested = folded.train, len(folded.test)
    chosen = select_subset(known, subset, classes=found.classes)
    val_fraction, given = chosen_val(val_fraction, range(found.val) if found.val else None, found.name)
    held = len(given) if given is not None else 0
    if val_fraction is not None:
        chosen, val = hold_out(
            chosen, val_fraction, subset.seed, classes=found.classes, groups=groups if found.names else None
        )
        held = len(val)
    more = 0
    if extra is not None and found.named:
        more = len(read_classes(Path(extra).expanduser(), found.classes).train)
    return Counts(
        tuple(torch.bincount(chosen.class_numbers, minlength=len(found.classes)).tolist()),
        held,
        more,
        tested,
        len(chosen),
    )


def outline_and_count(
    source: str | Path | DataSet,
    subsets: Sequence[Subset],
    options: Options,
    *,
    groups: Groups | None,
    downloads: bool = False,
) -> tuple[Outline, Counts]:
    """Outline the data set of a training, and count the images of its first subset.

    Args:
        source: a name, a folder or a data set.
        subsets: of one training, or of all folds; all are counted, as a class may have too few images in one of them.
        options: of the training.
        groups: those that are held out whole.
        downloads: a data set of the hub is downloaded.

    Raises:
        InputError: a subset is impossible, or groups are given where nothing is held out.
        DataError, MissingError: as for `outline`.
    """
    val_fraction, folds = options.get("val_fraction"), subsets[0].folds
    found = outline(
        source, data_dir=options.get("data_dir"), offline=bool(options.get("offline")), downloads=downloads,
        groups=groups if folds is None else None,
    )  # fmt: skip
    check_groups(groups, found.name, divided=bool(val_fraction) or found.flat or folds is not None)
    counts, *_ = [
        count(found, one, val_fraction=val_fraction, extra=options.get("extra"), groups=groups) for one in subsets
    ]
    return found, counts


def _held(found: Outline) -> tuple[Tensor, Sequence[str], Sequence[str]]:
    labels, names = found.held or (torch.zeros(0, dtype=torch.int64), ())
    return labels, found.classes, names


def stubs(labels: Tensor, classes: Sequence[str], names: Sequence[str] = ()) -> Images:
    """Make images with labels, int64 (N,), and names only."""
    number = len(labels)
    return Images(
        torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(number, -1, -1, -1),
        torch.ones(number, 2, dtype=torch.int32),
        labels,
        tuple(names or (classes[label] for label in labels.tolist())),
    )


def _made_labels(number: int, classes: int, *, several: bool) -> Tensor:
    """Return labels that name the classes in turn."""
    labels = torch.arange(number) % classes
    return torch.nn.functional.one_hot(labels, classes).float() if several else labels


def stand_in(found: Outline, number: int, draw: Callable[[int, int, torch.Generator], Tensor]) -> DataSet:
    """Generate a small data set of the same image size and classes, to measure with.

    Args:
        found: the outline of the real data set.
        number: of images, in each split.
        draw: returns uint8 (N,3,S,S) from a number, a side and a generator.
    """
    height, width = found.side
    chance = torch.Generator().manual_seed(0)
    pixels = draw(number, max(height, width), chance)[:, :, :height, :width].contiguous()
    some = Images(
        pixels,
        torch.tensor([[height, width]], dtype=torch.int32).repeat(number, 1),
        _made_labels(number, len(found.classes), several=found.train.ndim == 2),
        ("a made image",) * number,
    )
    return DataSet(found.name, found.classes, some, some, "", ())
