"""Check a data set before training: counts, sizes, broken and odd files, copies, leaks.

A problem makes a training impossible or wrong from the start: the folder's structure, or a file that cannot be
read. A remark is something to know. A leak is a remark, because published sets have some and are used all the same.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from lgkd.data.catalogue import CATALOGUE
from lgkd.data.checks.duplicates import Copies, Part, compare, copies_of, digests_of
from lgkd.data.checks.near_copies import NearCopies, Traced, find_near_copies, near_copies_of
from lgkd.data.checks.remarks import (
    about_balance,
    about_broken,
    about_copies,
    about_images,
    about_missing,
    about_names,
    about_near_copies,
    about_test_copies,
    about_val,
    imbalance,
    missing_classes,
    tiny_classes,
)
from lgkd.data.dataset import DataSet
from lgkd.data.decode import DEFAULT_SIDE, Look, Progress, survey
from lgkd.data.greys import Scale
from lgkd.data.image_formats import is_passed_over, read_endings
from lgkd.data.image_kinds import KINDS
from lgkd.data.listing import File, Listing
from lgkd.data.load import both_splits, groups_of, load_dataset
from lgkd.data.locations import Downloading, tree_folder
from lgkd.data.sources.source import Source, find_source
from lgkd.errors import DataError

_COMMON = 5
_EXAMPLES = 3


@dataclass(frozen=True)
class Split:
    """Count the images of each class in a split; broken ones do not count."""

    name: str
    images: int
    smallest: int
    """Images of its smallest class."""
    median: float
    largest: int
    per_class: dict[str, int]
    """Images of each class, in the order of the classes; 0 where it has none."""


@dataclass(frozen=True)
class Size:
    """Count images of one size, upright, in pixels."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class Sizes:
    """Summarise the sizes of all images that can be read."""

    different: int
    smallest: Size
    """By area, as `largest`."""
    largest: Size
    common: tuple[Size, ...]
    """The most frequent ones, first things first."""
    narrowest: float
    """Width over height, as `widest`."""
    widest: float
    scaled_down: int
    """Images that a training scales down, because sizes differ and they are large."""


@dataclass(frozen=True)
class Kind:
    """Count images that are not plain 8-bit RGB."""

    name: str
    images: int
    becomes: str
    """Result of decoding them."""
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Broken:
    """Name an image file that cannot be read."""

    name: str
    reason: str


@dataclass(frozen=True)
class Unused:
    """Count files in the data set's folder that are not images by their ending."""

    ending: str
    files: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """Hold the findings on a data set."""

    name: str
    folder: str | None
    """The folder or file; None for images without one."""
    classes: tuple[str, ...]
    train: Split
    test: Split
    sizes: Sizes | None
    """None where no image can be read."""
    kinds: tuple[Kind, ...]
    broken: tuple[Broken, ...]
    unused: tuple[Unused, ...]
    tiny: dict[str, int]
    """Training images of the classes with fewer than `TINY_CLASS`."""
    untested: tuple[str, ...]
    """Classes without a test image."""
    imbalance: float | None
    """The largest class over the smallest, by training images; None where one has none."""
    copies: Copies
    near_copies: NearCopies = field(default_factory=NearCopies)
    problems: tuple[str, ...] = field(default=())
    """Faults that make a training impossible or wrong."""
    remarks: tuple[str, ...] = field(default=())
    """Remarks to read before a training."""
    val: Split | None = None
    """The split that selects the epoch; None where none is given."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and words, for JSON."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def check_dataset_images(
    source: str | Path | DataSet,
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    downloading: Downloading | None = None,
    offline: bool = False,
) -> CheckReport:
    """Check every image of a data set; a fault does not stop the check.

    Files are decoded at full size, and none is kept. Of a decoded data set, of digits, and of a
    publisher's archive (downloaded, if need be), the tensors are checked.

    Args:
        source: a name, a folder, or a loaded `DataSet`.
        data_dir: folder of named sets.
        progress: called with (done, total) images.
        downloading: called with (name, done, total) while a file is downloaded, in bytes.
        offline: open no connection; LGKD_OFFLINE=1 in the environment does the same.

    Raises:
        InputError: no such name and no such folder.
        MissingError: a named set was not found and cannot be downloaded.
        DataError: the folder's layout is not supported.
    """
    if isinstance(source, DataSet):
        return _of_dataset(source)
    if not _has_files(source, data_dir):
        return _of_dataset(
            load_dataset(source, data_dir=data_dir, progress=progress, downloading=downloading, offline=offline)
        )
    problems: list[str] = []
    found = find_source(source, data_dir=data_dir, offline=offline)
    return _of_listing(found, found.listing(fault=problems.append), problems, progress)


def _has_files(source: str | Path, data_dir: str | Path | None) -> bool:
    """Return True where each image has a file: not for bundled data sets or an archive of the publisher's."""
    info = CATALOGUE.get(source) if isinstance(source, str) else None
    return info is None or tree_folder(info, data_dir) is not None


def _of_dataset(dataset: DataSet) -> CheckReport:
    splits = (dataset.train, dataset.test)
    train, test = (
        _split(name, dataset.classes, split.class_numbers.tolist(), len(split))
        for name, split in zip(("train", "test"), splits, strict=True)
    )
    seen: list[tuple[str, int, int]] = []
    for split in splits:
        seen += [(name, *size) for name, size in zip(split.names, split.sizes.tolist(), strict=True)]
    copies = copies_of(dataset)
    near = near_copies_of(dataset, digests_of(*splits))
    val, notes = None, dataset.notes
    if dataset.val is not None:
        val = _split("val", dataset.classes, dataset.val.class_numbers.tolist(), len(dataset.val))
        parts = [
            Part(images.names, images.label_keys, digests)
            for images, digests in zip((*splits, dataset.val), digests_of(*splits, dataset.val), strict=True)
        ]
        notes = (*about_val(compare(parts[0], parts[2]), compare(parts[1], parts[2]), val.images), *notes)
    return CheckReport(
        name=dataset.name,
        folder=None,
        classes=dataset.classes,
        train=train,
        test=test,
        sizes=_sizes(seen),
        kinds=(),
        broken=(),
        unused=(),
        tiny=tiny_classes(train.per_class),
        untested=missing_classes(test.per_class),
        imbalance=imbalance(train.per_class),
        copies=copies,
        near_copies=near,
        remarks=_remarks(train, test, copies, near, seen, notes),
        val=val,
    )


def _of_listing(source: Source, listing: Listing, problems: list[str], progress: Progress | None) -> CheckReport:
    notes: Sequence[str]
    try:
        train_files, test_files, notes = both_splits(listing, groups_of(listing))
    except DataError as error:
        problems.append(str(error))
        train_files, test_files, notes = listing.train, (), listing.notes
    val_files = listing.val or ()
    files = train_files + test_files + val_files
    scale = Scale(len(train_files))
    names = [file.path for file in files]
    looks = survey(listing.root, names, read=listing.read, progress=progress, scale=scale, traced=True)
    notes = (*notes, *scale.notes)
    broken = tuple(Broken(file.path, look) for file, look in zip(files, looks, strict=True) if isinstance(look, str))
    if broken:
        problems.append(about_broken([(one.name, one.reason) for one in broken], len(files)))
    cut, end = len(train_files), len(train_files) + len(test_files)
    parts = (
        _part(listing, train_files, looks[:cut]),
        _part(listing, test_files, looks[cut:end]),
        _part(listing, val_files, looks[end:]),
    )
    train, test, val = (
        _split(
            which,
            listing.classes,
            chain.from_iterable(part.labels) if listing.label_sets else part.labels,
            len(part.names),
        )
        for which, part in zip(("train", "test", "val"), parts, strict=True)
    )
    seen = [(f.path, k.height, k.width) for f, k in zip(files, looks, strict=True) if isinstance(k, Look)]
    copies = compare(*parts[:2])
    near = find_near_copies(_traced(train_files, looks[:cut]), _traced(test_files, looks[cut:end]))
    notes = (*about_val(compare(parts[0], parts[2]), compare(parts[1], parts[2]), val.images), *notes)
    return CheckReport(
        name=source.name,
        folder=str(listing.root) if listing.key is None else source.text,
        classes=listing.classes,
        train=train,
        test=test,
        sizes=_sizes(seen),
        kinds=_kinds(files, looks),
        broken=broken,
        unused=_unused(listing.root) if listing.key is None else (),
        tiny=tiny_classes(train.per_class),
        untested=missing_classes(test.per_class),
        imbalance=imbalance(train.per_class),
        copies=copies,
        near_copies=near,
        # The same folder may have been listed twice.
        problems=tuple(dict.fromkeys(problems)),
        remarks=_remarks(train, test, copies, near, seen, notes),
        val=val if val_files else None,
    )


def _part(listing: Listing, files: Sequence[File], looks: Sequence[Look | str]) -> Part:
    whole = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, Look)]
    labels = [listing.label_sets[file.path] if listing.label_sets else file.label for file, _ in whole]
    return Part([file.path for file, _ in whole], labels, [look.digest for _, look in whole])


def _traced(files: Sequence[File], looks: Sequence[Look | str]) -> Traced:
    whole = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, Look)]
    return Traced(
        [file.path for file, _ in whole], [look.trace for _, look in whole], [look.digest for _, look in whole]
    )


def _split(name: str, classes: Sequence[str], labels: Iterable[int], images: int | None = None) -> Split:
    """Count the labels of a split; `images` is their number where an image may have several labels."""
    counted = Counter(labels)
    counts = [counted[label] for label in range(len(classes))]
    return Split(
        name,
        sum(counts) if images is None else images,
        min(counts),
        float(median(counts)),
        max(counts),
        dict(zip(classes, counts, strict=True)),
    )


def _sizes(seen: Sequence[tuple[str, int, int]]) -> Sizes | None:
    if not seen:
        return None
    counted = Counter((height, width) for _, height, width in seen)
    sizes = [Size(width, height, images) for (height, width), images in counted.most_common()]
    by_area = sorted(sizes, key=lambda size: (size.width * size.height, size.width))
    shapes = [size.width / size.height for size in sizes]
    large = sum(size.images for size in sizes if max(size.width, size.height) > DEFAULT_SIDE)
    return Sizes(
        different=len(sizes),
        smallest=by_area[0],
        largest=by_area[-1],
        common=tuple(sizes[:_COMMON]),
        narrowest=round(min(shapes), 4),
        widest=round(max(shapes), 4),
        scaled_down=large if len(sizes) > 1 else 0,
    )


def _kinds(files: Sequence[File], looks: Sequence[Look | str]) -> tuple[Kind, ...]:
    found: dict[str, list[str]] = {}
    for file, look in zip(files, looks, strict=True):
        for kind in look.kinds if isinstance(look, Look) else ():
            found.setdefault(kind, []).append(file.path)
    return tuple(
        Kind(kind, len(found[kind]), becomes, tuple(found[kind][:_EXAMPLES]))
        for kind, becomes in KINDS.items()
        if kind in found
    )


def _unused(root: Path) -> tuple[Unused, ...]:
    found: dict[str, list[str]] = {}
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not is_passed_over(name, folder=True))
        for name in sorted(names):
            ending = Path(name).suffix.lower()
            if not is_passed_over(name, folder=False) and ending not in read_endings():
                found.setdefault(ending, []).append((Path(folder) / name).relative_to(root).as_posix())
    return tuple(
        Unused(ending or "no ending", len(names), tuple(names[:_EXAMPLES])) for ending, names in sorted(found.items())
    )


def _remarks(
    train: Split,
    test: Split,
    copies: Copies,
    near: NearCopies,
    seen: Sequence[tuple[str, int, int]],
    notes: Sequence[str],
) -> tuple[str, ...]:
    """Return all remarks, the leak first."""
    said = [*about_copies(copies, test.images), *about_test_copies(copies), *about_near_copies(near, test.images)]
    said += about_balance(train.per_class)
    if not any("has no images of" in note for note in notes):
        said += about_missing(test.per_class)
    return (*said, *about_images(seen), *about_names(train.per_class), *notes)


def _plain(value: Any) -> Any:
    """Replace tuples by lists, so that written and read results are equal."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
