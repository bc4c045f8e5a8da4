"""Image trees of named data sets from the files of their publishers, where lgkd does not download them.

Everything is looked at before anything is written: lists, counts, names. The tree is there whole or not at all.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lgkd._internal.leftovers import Scratch
from lgkd._internal.text import did_you_mean
from lgkd.data.catalogue import CATALOGUE, DataSetInfo
from lgkd.data.image_formats import ALWAYS_READ
from lgkd.data.locations import target
from lgkd.data.sources.archives import ZipMembers, is_inside, opened_zip
from lgkd.errors import DataError, InputError, MissingError, TakenError

Progress = Callable[[int, int], None]

CHAOYANG = {
    "normal": (1111, 705),
    "serrated": (842, 321),
    "adenocarcinoma": (1404, 840),
    "adenoma": (664, 273),
}
"""Chaoyang's classes in the order of the publisher's labels 0 to 3, each with its images in train and in test.

The names and counts are those of the README that comes with the data, which names the classes in this order. It does
not say which label is which; but no two counts are equal, so files whose labels mean anything else are refused.
"""

_NOT_IT = "it is not the published archive"
_MOST_FILES = 250_000
_LARGEST = 2**26


class _Source(ABC):
    """The publisher's files, packed or not."""

    def __init__(self, where: Path, sizes: Mapping[str, int]) -> None:
        self.where = where
        self.sizes = sizes
        """Bytes of every file, by its name with forward slashes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """What a file holds."""

    def put(self, name: str, place: Path) -> None:
        """A file at its place in the tree."""
        place.write_bytes(self.read(name))


class _Folder(_Source):
    """An unpacked archive. Links are followed: the folder is the user's own."""

    def __init__(self, where: Path, *, link: bool) -> None:
        sizes: dict[str, int] = {}
        super().__init__(where, sizes)
        self._link = link
        for folder, _, names in os.walk(where, followlinks=True):
            for name in names:
                path = Path(folder) / name
                with _reading(path):
                    if path.exists():  # a link that leads nowhere is as good as none
                        sizes[path.relative_to(where).as_posix()] = path.stat().st_size
            if len(sizes) > _MOST_FILES:
                raise DataError(f"{where} holds more than {_MOST_FILES:,} files: name the publisher's own folder")

    def read(self, name: str) -> bytes:
        with _reading(self.where / name):
            return (self.where / name).read_bytes()

    def put(self, name: str, place: Path) -> None:
        if not self._link:
            super().put(name, place)
            return
        try:
            place.hardlink_to((self.where / name).resolve())
        except OSError as error:
            raise InputError(
                f"{self.where / name} cannot be linked to {place.parent} ({error.strerror or error}): "
                f"leave out --link, and it is copied"
            ) from error


class _Packed(_Source):
    """A zip archive."""

    def __init__(self, where: Path, members: ZipMembers) -> None:
        super().__init__(where, members.sizes)
        self._members = members

    def read(self, name: str) -> bytes:
        return self._members.read(name)


class Arranged(NamedTuple):
    """A tree that was made."""

    name: str
    folder: Path
    classes: int
    train: int
    test: int


def arrangeable() -> tuple[str, ...]:
    """The named sets that are laid out here."""
    return tuple(name for name, info in CATALOGUE.items() if info.lists)


def arrange(
    name: str,
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    link: bool = False,
    progress: Progress | None = None,
) -> Arranged:
    """A named set as DATA_DIR/NAME/train/CLASS/* and DATA_DIR/NAME/test/CLASS/*, from its publisher's files.

    Args:
        name: "tiny-imagenet" or "chaoyang".
        source: the publisher's zip archive, or the folder that it unpacks to (or the one around that).
        data_dir: where named sets lie; by default ./data. It is made if it is not there.
        link: hard links instead of copies, from a folder on the same disk.
        progress: called with (done, total) images.

    Raises:
        InputError: no such name, or the tree cannot be written, or not by links.
        MissingError: there is no `source`.
        TakenError: something lies where the tree is to go.
        DataError: lists or images are missing, counts are wrong, or a name points outside.
    """
    info = CATALOGUE.get(name)
    if info is None or name not in _PLANS:
        raise InputError(f"there is nothing to arrange for {name!r}; {did_you_mean(name, _PLANS)}")
    folder = target(info, data_dir)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TakenError(
            f"{folder} is there already and was not touched; move it away, or choose another place with --data-dir"
        )
    with _opened(Path(source).expanduser(), link) as files:
        plan = _PLANS[name](info, _Below(files, info.lists))
        with whole(folder, "make room, or choose another place with --data-dir") as scratch:
            for part in {place.rpartition("/")[0] for place in plan.values()}:
                (scratch / part).mkdir(parents=True)
            for done, (file, place) in enumerate(plan.items(), start=1):
                files.put(file, scratch / place)
                if progress is not None:
                    progress(done, len(plan))
    return Arranged(name, folder, info.classes, info.train, info.test)


@contextmanager
def whole(folder: Path, advice: str) -> Iterator[Path]:
    """A new folder beside `folder` to write into; it gets that name at the end, or goes where that does not come.

    Args:
        folder: nothing, or an empty folder, may be there.
        advice: what to do where it cannot be written, for the message.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with Scratch(folder) as scratch:
            yield scratch
            if hasattr(os, "sync"):  # once, since thousands of small files take long one by one
                os.sync()
            scratch.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; {advice}") from error


class _Below:
    """The part of a source that holds the publisher's lists: the source itself, or one folder in it."""

    def __init__(self, source: _Source, lists: Sequence[str]) -> None:
        self._source = source
        found = sorted(
            (name for name in source.sizes if name.count("/") <= 1 and name.rpartition("/")[2] == lists[0]),
            key=lambda name: (name.count("/"), name),
        )
        self._prefix = found[0].removesuffix(lists[0]) if found else ""
        self.where = source.where / self._prefix
        self.sizes = {
            name.removeprefix(self._prefix): size
            for name, size in source.sizes.items()
            if name.startswith(self._prefix)
        }
        lacking = [name for name in lists if name not in self.sizes]
        if lacking:
            raise DataError(
                f"{source.where} lacks {' and '.join(lacking)}: expected the publisher's zip archive, or the folder "
                f"that it unpacks to"
            )

    def full(self, name: str) -> str:
        """The name in the source itself."""
        return self._prefix + name

    def text(self, name: str) -> str:
        """The text of a list.

        Raises:
            DataError: it is missing, too large, or no text.
        """
        if name not in self.sizes:
            raise DataError(f"{self.where} lacks {name}: put the whole of the publisher's files")
        if self.sizes[name] > _LARGEST:
            raise DataError(f"{self.where / name} has {self.sizes[name]:,} bytes: it is not the publisher's list")
        try:
            return self._source.read(self.full(name)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where / name} is no text: it is not the publisher's list") from error

    def images(self, names: Sequence[str]) -> None:
        """Refuses images that are missing, empty or absurdly large."""
        for what, wrong in (
            ("lacks", [name for name in names if name not in self.sizes]),
            ("has empty files:", [name for name in names if not self.sizes.get(name, 1)]),
            (f"has files above {_LARGEST:,} bytes:", [name for name in names if self.sizes.get(name, 0) > _LARGEST]),
        ):
            if wrong:
                more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
                raise DataError(f"{self.where} {what} {', '.join(wrong[:3])}{more}: put the publisher's own")


def _tiny_imagenet(info: DataSetInfo, files: _Below) -> dict[str, str]:
    """For every image of the publisher's, its path in the tree.

    His layout: wnids.txt names the classes; train/WNID/images/*.JPEG; val/images/*.JPEG with
    val/val_annotations.txt, of which a line is the image's name, its class and a box, set apart by tabs. The images of
    `test` have no labels and are left out.
    """
    classes = files.text("wnids.txt").split()
    odd = [wnid for wnid in classes if not re.fullmatch(r"n\d{8}", wnid)]
    if odd:
        raise DataError(f"{files.where}/wnids.txt has {odd[0]!r}, expected WordNet numbers such as n01443537")
    if len(set(classes)) != info.classes or len(classes) != info.classes:
        found = len(set(classes))
        raise DataError(f"{files.where}/wnids.txt names {found} classes, {info.name} has {info.classes}: {_NOT_IT}")
    plan: dict[str, str] = {}
    per_class = dict.fromkeys(classes, 0)
    for name in sorted(files.sizes):
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and _is_image(parts[3]):
            if parts[1] not in per_class:
                raise DataError(f"{files.where}/train has the class {parts[1]!r}, which wnids.txt lacks")
            per_class[parts[1]] += 1
            plan[name] = f"train/{parts[1]}/{parts[3]}"
    _right_counts(files, "train", per_class, dict.fromkeys(classes, info.train // info.classes))
    labels: dict[str, str] = {}
    for number, line in enumerate(files.text("val/val_annotations.txt").splitlines(), start=1):
        image, wnid = (*line.split("\t"), "", "")[:2]
        where = f"line {number} of {files.where}/val/val_annotations.txt"
        if not _is_image(image) or "/" in image or not is_inside(image):
            raise DataError(f"{where} names {image!r}, expected an image of val/images")
        if wnid not in per_class:
            raise DataError(f"{where} has the class {wnid!r}, which wnids.txt lacks")
        if image in labels:
            raise DataError(f"{where} names {image} again, expected once: {_NOT_IT}")
        labels[image] = wnid
    _right_counts(files, "val", Counter(labels.values()), dict.fromkeys(classes, info.test // info.classes))
    plan |= {f"val/images/{image}": f"test/{wnid}/{image}" for image, wnid in labels.items()}
    return _whole_plan(files, plan)


def _chaoyang(info: DataSetInfo, files: _Below) -> dict[str, str]:
    """For every image of the publisher's, its path in the tree.

    His layout: train.json and test.json are lists of {"name": "train/IMAGE.JPG", "label": 0 to 3}.
    """
    classes = tuple(CHAOYANG)
    plan: dict[str, str] = {}
    goals: set[str] = set()
    for place, split in enumerate(("train", "test")):
        per_class = dict.fromkeys(classes, 0)
        for number, (name, label) in enumerate(_labelled(files, f"{split}.json"), start=1):
            where = f"entry {number} of {files.where}/{split}.json"
            if not is_inside(name):
                raise DataError(f"{where} names {name!r}, which points outside")
            if not _is_image(name.rpartition("/")[2]):
                raise DataError(f"{where} names {name!r}, expected an image")
            if not 0 <= label < info.classes:
                raise DataError(f"{where} has the label {label}, expected 0 to {info.classes - 1}")
            goal = f"{split}/{classes[label]}/{name.rpartition('/')[2]}"
            if name in plan or goal in goals:
                raise DataError(f"{where} names {name}, but there is one of that name before it")
            per_class[classes[label]] += 1
            goals.add(goal)
            plan[name] = goal
        _right_counts(files, split, per_class, {name: counts[place] for name, counts in CHAOYANG.items()})
    return _whole_plan(files, plan)


def _labelled(files: _Below, name: str) -> Iterator[tuple[str, int]]:
    """The names and labels of a JSON list."""
    try:
        entries = json.loads(files.text(name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{files.where / name} is no JSON ({error}): put the publisher's list") from error
    if not isinstance(entries, list):
        raise DataError(f"{files.where / name} holds no list: put the publisher's")
    for number, entry in enumerate(entries, start=1):
        found = (entry.get("name"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(found[0], str) or type(found[1]) is not int:
            raise DataError(
                f'entry {number} of {files.where / name} is no {{"name": "FOLDER/IMAGE.JPG", "label": NUMBER}}'
            )
        yield found[0], found[1]


_PLANS: dict[str, Callable[[DataSetInfo, _Below], dict[str, str]]] = {
    "tiny-imagenet": _tiny_imagenet,
    "chaoyang": _chaoyang,
}


def _whole_plan(files: _Below, plan: Mapping[str, str]) -> dict[str, str]:
    """A plan by the source's own names, once all its images are known to be there."""
    files.images(list(plan))
    return {files.full(name): place for name, place in plan.items()}


def _right_counts(files: _Below, split: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    wrong = [name for name, count in published.items() if found.get(name, 0) != count]
    if wrong:
        first = wrong[0]
        more = f"; {len(wrong)} classes differ" if len(wrong) > 1 else ""
        raise DataError(
            f"{files.where} has other {split} images than were published: of the class {first} "
            f"{found.get(first, 0):,} instead of {published[first]:,}{more}: put the whole of the publisher's files"
        )


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in ALWAYS_READ


@contextmanager
def _opened(source: Path, link: bool) -> Iterator[_Source]:
    if source.is_dir():
        yield _Folder(source, link=link)
        return
    if not source.exists():
        raise MissingError(f"there is no {source}: expected the publisher's zip archive, or the folder it unpacks to")
    if link:
        raise InputError(f"{source} is an archive, from which nothing can be linked: leave out --link")
    # JPEGs do not shrink in an archive, so one that holds much more than it weighs is none of them.
    limit = 4 * source.stat().st_size + _LARGEST
    with opened_zip(source, max_bytes=limit, max_members=_MOST_FILES) as members:
        yield _Packed(source, members)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the folder and its links") from error
