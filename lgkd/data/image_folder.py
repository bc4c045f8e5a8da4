"""List the images of a folder: splits, classes, files. Nothing is decoded here.

Two layouts are supported: FOLDER/train/CLASS/* with FOLDER/test/CLASS/* and perhaps FOLDER/val/CLASS/*, and
FOLDER/CLASS/* without splits.
Below CLASS, folders may be nested to any depth.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lgkd._internal.text import counted, listed
from lgkd.data.folder_remarks import nested_remarks
from lgkd.data.image_formats import about_unused, is_passed_over, is_read, read_endings, remedies_for
from lgkd.data.listing import Fault, File, Listing, refuse
from lgkd.errors import DataError

LAYOUT = "FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, or FOLDER/CLASS/*"
"""Expected layout of a folder, for messages."""

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation")
_TEST = ("test", "testing", *_VAL)


class _Found(NamedTuple):
    name: str
    size: int
    mtime_ns: int


class _Content(NamedTuple):
    """Hold the entries of one folder that are not hidden, by name."""

    folders: dict[str, Path]
    images: list[_Found]
    others: Counter[str]
    """Endings of the files that are not images, with their numbers."""
    systems: Counter[str]
    """Names of the folders that systems make, such as those of thumbnails, with their numbers."""


def read_tree(root: Path, *, trains_on: tuple[str, ...] = (), fault: Fault = refuse, selects: bool = True) -> Listing:
    """List the images of a folder.

    Hidden files, folders of thumbnails and files that are not images (by their ending) are passed over; a note counts
    all but the hidden ones. Links are followed.

    Args:
        root: the folder.
        trains_on: the folders whose images are trained on, where more than one makes up the training split; each
            has all classes.
        fault: called for empty classes, classes of one split only, a single class and unreadable files. Where it
            returns, the rest is listed: without that class, and without unreadable files.
        selects: whether val beside test is listed, to select the epoch on.

    Raises:
        DataError: the folder does not follow a supported layout; and from `refuse`.
    """
    top = _content(root, fault)
    if not top.folders:
        found = "images, but no class folders" if top.images else "no class folders and no images"
        raise DataError(f"{root} holds {found}: expected {LAYOUT}")
    splits = _splits(root, top, fault)
    if splits is None:
        classes = _classes(root, top)
        _need_two(root, classes, top, fault)
        files, below = _files(root, top, classes, fault)
        notes = (*_loose(root, top), *nested_remarks(root, classes, files, 0), *_unused(root, top, below))
        return Listing(root, classes, files, None, notes)
    more = tuple(name for name in trains_on if name != splits[0])
    val = _val_split(top, splits[1], fault) if selects else None
    return _split_tree(root, top, *splits, fault, more=more, val_name=val)


def read_classes(root: Path, known: tuple[str, ...]) -> Listing:
    """List the images of FOLDER/CLASS/*, labelled by the places of their classes in `known`.

    Raises:
        DataError: there are no class folders, one is not known, or one holds no images.
    """
    top = _content(root, refuse)
    foreign = sorted(set(_classes(root, top)) - set(known))
    if foreign:
        raise DataError(
            f"{root} has {counted(len(foreign), 'class')} that the data set lacks: {listed(foreign)}; "
            f"expected folders named as its classes ({listed(list(known))}), or some of them"
        )
    files, below = _files(root, top, known, refuse)
    return Listing(root, known, files, None, (*_loose(root, top), *_unused(root, top, below)))


def read_labelled(root: Path, known: tuple[str, ...]) -> tuple[Listing, str]:
    """List the images of a folder to score a classifier on, labelled by the places of their classes.

    Args:
        root: FOLDER/test/CLASS/*, alone or beside a training split, which is passed over; else a training split
            alone; else FOLDER/CLASS/*.
        known: the classes of the classifier; the folder may hold some of them.

    Returns:
        The listing, whose images are its test split, and the name of the folder that they are in, "" for `root`.

    Raises:
        DataError: there are no class folders, one is not known, or one holds no images.
    """
    top = _content(root, refuse)
    split = "" if set(top.folders) <= set(known) else _scored_split(top)
    content, place = (_content(top.folders[split], refuse), top.folders[split]) if split else (top, root)
    foreign = sorted(set(_classes(place, content)) - set(known))
    if foreign:
        raise DataError(
            f"{place} has {counted(len(foreign), 'class')} that the student does not know: {listed(foreign)}; "
            f"expected folders named as its classes ({listed(list(known))}), or some of them; rename or remove "
            "the others"
        )
    beside = sorted(top.folders.keys() - {split}) if split else []
    unused = (f"not used: {listed(beside)}, beside {split} in {root}",) if beside else ()
    loose = _loose(root, top) + (_loose(place, content) if split else ())
    files, below = _files(root, content, known, refuse)
    return Listing(root, known, (), files, (*unused, *loose, *_unused(place, content, below))), split


def _scored_split(top: _Content) -> str:
    """Return the folder of a split, test before train; "" where the folders are classes."""
    by_role = {name.lower(): name for name in sorted(top.folders)}
    for role in (*_TEST, *_TRAIN):
        if role in by_role:
            below = _content(top.folders[by_role[role]], refuse)
            # "train" may be a class of vehicles: as a split it holds folders and no images of its own.
            if below.folders and not below.images:
                return by_role[role]
    return ""


def images_below(folder: Path, fault: Fault = refuse, *, unused: Callable[[str], None] | None = None) -> list[Path]:
    """List all images of a folder at any depth, sorted; hidden files and other endings are passed over.

    Args:
        folder: to search.
        fault: called for unreadable files, such as a broken link.
        unused: called with one line on the files that are passed over, if there are any.
    """
    found, below = _below(folder, "", 0, fault)
    if unused is not None:
        for line in _unused(folder, below):
            unused(line)
    return [folder / file.path[1:] for file in sorted(found)]


def check_some_image(root: Path) -> None:
    """Refuse a folder without images at any depth; the search ends at the first image.

    Raises:
        DataError: there is none, with the message of `read_tree`, which also reports unreadable files.
    """
    odd: list[str] = []
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        content = _content(folder, odd.append)
        if content.images or odd:
            return
        waiting += content.folders.values()
    read_tree(root)


def _splits(root: Path, top: _Content, fault: Fault) -> tuple[str, str | None] | None:
    """Return the names of the train and test folders; None where the folders are classes."""
    by_role = {name.lower(): name for name in sorted(top.folders)}
    train = next((by_role[name] for name in _TRAIN if name in by_role), None)
    test = next((by_role[name] for name in _TEST if name in by_role), None)
    if train is None:
        if set(by_role) <= set(_TEST):
            raise DataError(f"{root} has a folder {test!r}, but none named 'train': expected {LAYOUT}")
        return None
    if test is None:
        # "train" alone may be a class of vehicles: as a split it holds folders and no images of its own.
        below = _content(top.folders[train], fault)
        if below.images or not below.folders:
            return None
    return train, test


def _val_split(top: _Content, test_name: str | None, fault: Fault) -> str | None:
    """Return the folder of a validation split beside a test split; one without class folders is none."""
    by_role = {name.lower(): name for name in sorted(top.folders)}
    if test_name is None or test_name.lower() in _VAL:
        return None
    folders = [by_role[name] for name in _VAL if name in by_role]
    return next((name for name in folders if _content(top.folders[name], fault).folders), None)


def _split_tree(
    root: Path,
    top: _Content,
    train_name: str,
    test_name: str | None,
    fault: Fault,
    more: tuple[str, ...],
    val_name: str | None = None,
) -> Listing:
    train_top = _content(top.folders[train_name], fault)
    classes = _classes(top.folders[train_name], train_top)
    _need_two(top.folders[train_name], classes, train_top, fault)
    train, below = _files(root, train_top, classes, fault)
    passed = [top, train_top, below]
    notes = list(_loose(root, top) + _loose(top.folders[train_name], train_top))
    notes += nested_remarks(top.folders[train_name], classes, train, 1)
    for name in more:
        part = _content(top.folders[name], fault)
        if tuple(sorted(part.folders)) != classes:
            fault(f"{top.folders[name]} has other classes than {train_name}: both are trained on, so they must agree")
            part.folders.clear()
        notes += _loose(top.folders[name], part)
        joined, below = _files(root, part, classes, fault)
        passed += [part, below]
        train = tuple(sorted(train + joined, key=lambda file: (file.label, file.path)))
    unused = sorted(top.folders.keys() - {train_name, test_name, val_name, *more})
    if unused:
        notes.append(f"not used: {listed(unused)}, beside {train_name} in {root}")
    if test_name is None:
        return Listing(root, classes, train, None, (*notes, *_unused(root, *passed)))
    if test_name.lower() not in ("test", "testing"):
        notes.append(f"no folder named test: accuracy is reported on {test_name}")
    test, test_notes, skipped = _evaluated(root, top, test_name, train_name, classes, fault)
    passed += skipped
    notes += test_notes
    val = None
    if val_name is not None:
        val, val_notes, skipped = _evaluated(root, top, val_name, train_name, classes, fault)
        passed += skipped
        notes += val_notes
    return Listing(root, classes, train, test, (*notes, *_unused(root, *passed)), val)


def _evaluated(
    root: Path, top: _Content, name: str, train_name: str, classes: tuple[str, ...], fault: Fault
) -> tuple[tuple[File, ...], list[str], list[_Content]]:
    """List the images of a split that is not trained on, with notes and the contents of its folders."""
    content = _content(top.folders[name], fault)
    own = _classes(top.folders[name], content)
    foreign = sorted(set(own) - set(classes))
    if foreign:
        fault(
            f"{top.folders[name]} has {counted(len(foreign), 'class')} that {train_name} lacks: "
            f"{listed(foreign)}; every tested class must be trained on"
        )
        for one in foreign:
            del content.folders[one]
    notes = []
    absent = sorted(set(classes) - set(own))
    if absent:
        notes.append(f"{name} has no images of {counted(len(absent), 'class')}: {listed(absent)}")
    notes += _loose(top.folders[name], content)
    files, below = _files(root, content, classes, fault)
    return files, notes, [content, below]


def _classes(folder: Path, content: _Content) -> tuple[str, ...]:
    if not content.folders:
        found = "images, but no class folders" if content.images else "no class folders"
        raise DataError(f"{folder} holds {found}: expected {folder.name}/CLASS/*")
    # Bytes that are not text, as from an old archive: cards and reports are text, and could not hold such a class.
    odd = [name for name in content.folders if name != name.encode("utf-8", "replace").decode()]
    if odd:
        raise DataError(f"{folder} has a class folder whose name is not text ({odd[0]!r}); rename it")
    return tuple(sorted(content.folders))


def _need_two(folder: Path, classes: tuple[str, ...], content: _Content, fault: Fault) -> None:
    if len(classes) > 1:
        return
    inner = content.folders[classes[0]]
    hint = f"; if the classes are in {inner}, name that folder" if _content(inner, fault).folders else ""
    fault(f"{folder} has one class only, {classes[0]!r}: at least two are needed{hint}")


def _files(root: Path, content: _Content, classes: tuple[str, ...], fault: Fault) -> tuple[tuple[File, ...], _Content]:
    """List the images of all classes, and the other files beside them."""
    files: list[File] = []
    passed = _nothing()
    labels = {name: label for label, name in enumerate(classes)}
    for name in sorted(content.folders):
        folder = content.folders[name]
        found, below = _below(folder, folder.relative_to(root).as_posix(), labels[name], fault)
        if not found:
            seen = f"only other files: {listed(sorted(below.others))}" if below.others else "it is empty"
            seen = "; ".join([seen, *remedies_for(below.others)])
            known = " ".join(sorted(ending[1:] for ending in read_endings()))
            fault(f"the class folder {folder} holds no images ({seen}): add images ({known}) or remove the folder")
        files += sorted(found)
        passed.others.update(below.others)
        passed.systems.update(below.systems)
    return tuple(files), passed


def _below(folder: Path, prefix: str, label: int, fault: Fault) -> tuple[list[File], _Content]:
    """List all images at any depth, named from `prefix` on, and the other files."""
    files: list[File] = []
    passed = _nothing()
    waiting, seen = [(folder, prefix)], set()
    while waiting:
        current, prefix = waiting.pop()
        real = current.resolve()
        if real in seen:  # a link to a folder above would never end
            continue
        seen.add(real)
        content = _content(current, fault)
        files += [File(f"{prefix}/{image.name}", label, *image[1:]) for image in content.images]
        passed.others.update(content.others)
        passed.systems.update(content.systems)
        waiting += [(below, f"{prefix}/{below.name}") for below in content.folders.values()]
    return files, passed


def _nothing() -> _Content:
    return _Content({}, [], Counter(), Counter())


def _content(folder: Path, fault: Fault) -> _Content:
    content = _nothing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                stem, dot, ending = name.rpartition(".")  # Path.suffix would take most of the listing's time
                ending = f".{ending.lower()}" if stem and dot else "no ending"
                try:
                    is_folder = entry.is_dir()
                    if is_passed_over(name, folder=is_folder):
                        if is_folder:
                            content.systems[name] += 1
                        continue
                    status = entry.stat() if not is_folder and is_read(ending) else None
                except OSError as error:  # a broken link, or one to itself
                    fault(_unreadable(error, folder))
                    continue
                if is_folder:
                    content.folders[_as_text(name)] = folder / name
                elif status is not None:
                    if not stat.S_ISREG(status.st_mode):  # reading from a pipe would wait for a writer
                        fault(f"{folder / name} is a pipe, a device or the like, expected an image; remove it")
                        continue
                    content.images.append(_Found(name, status.st_size, status.st_mtime_ns))
                else:
                    content.others[ending] += 1
    except OSError as error:
        fault(_unreadable(error, folder))
    return content


def _as_text(name: str) -> str:
    """Return a name as UTF-8 text, also where the environment declares names to be ASCII."""
    try:
        return name if name.isascii() else os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return name


def _unreadable(error: OSError, folder: Path) -> str:
    return f"cannot read {error.filename or folder}: {error.strerror}; check the folder and its links"


def _loose(folder: Path, content: _Content) -> tuple[str, ...]:
    if not content.images:
        return ()
    loose = counted(len(content.images), "image")
    return (f"not used: {loose} directly in {folder}, outside the class folders",)


def _unused(where: Path, *contents: _Content) -> tuple[str, ...]:
    others: Counter[str] = sum((content.others for content in contents), Counter())
    return about_unused(where, others, sum((content.systems for content in contents), Counter()))
