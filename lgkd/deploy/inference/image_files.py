"""List image files by names of files, folders and patterns. No torch in here."""

from collections.abc import Callable, Collection, Iterable, Sequence
from glob import glob, has_magic
from itertools import chain
from pathlib import Path

from lgkd._internal.text import listed, safe_text
from lgkd.data.image_folder import images_below
from lgkd.data.image_formats import read_endings
from lgkd.data.listing import Read
from lgkd.data.sources.rows import Row
from lgkd.data.sources.source import Source, find_source, has_prefix, is_source
from lgkd.errors import InputError


def find_images(
    names: Iterable[str | Path], *, fault: Callable[[str], None], unused: Callable[[str], None] | None = None
) -> list[Path]:
    """List the image files of these names, in the order of the names, each once.

    A file may have any ending. Of a folder, every image at any depth is taken, by its ending and in
    sorted order. Of a table or a data set of Hugging Face, every labelled image is taken, in its order; those of the
    latter are not files, and `reader_of` reads them. A name that is neither is a pattern: `*`, `?` and `[...]` within a
    folder, `**` for any depth.

    Args:
        names: of files and folders, or patterns.
        fault: called with a sentence on each thing in a folder that cannot be read; the rest is listed.
        unused: called with a line on the files of a folder that are not images by their ending; by default `fault`.

    Raises:
        InputError: a name does not exist, a pattern matches nothing, or a folder holds no images.
    """
    found: dict[Path, None] = {}
    for name in names:
        if (labels := _labels(name, fault)) is not None:
            found |= dict.fromkeys(labels)
            continue
        for place in _places(name):
            if place.is_dir():
                found |= dict.fromkeys(_in_folder(place, fault, fault if unused is None else unused))
            elif place.is_file():
                found[place] = None
            else:  # reading from a pipe would wait for a writer
                raise InputError(f"{place} is a pipe, a device or the like, expected an image or a folder of images")
    if not found:
        raise InputError("no images were named; name files, folders or patterns such as 'photos/*.jpg'")
    return list(found)


def true_classes(
    names: Iterable[str | Path], files: Sequence[Path], classes: Collection[str], *, say: Callable[[str], None]
) -> list[str | None]:
    """Find the true class of each image of labelled folders: FOLDER/CLASS/*, at any depth below CLASS.

    A folder is labelled if every sub-folder of it that holds images is named as one of the classes.

    Args:
        names: of files and folders, or patterns, as for `find_images`.
        files: what `find_images` found for them.
        classes: those of the student.
        say: called with a sentence on a folder of which only some sub-folders are named so.

    Returns:
        For each file its class, of a table that of its row; None outside labelled folders, and directly in one.
    """
    truths: dict[Path, str] = {}
    folders: list[Path] = []
    for name in names:
        labelled = _labels(name, lambda _: None)
        if labelled is None:
            folders += [place for place in _places(name) if place.is_dir()]
        elif any(row.classes is not None for row in labelled.values()):
            say(f"{name} is not taken as labelled: it has several labels an image, and the student gives one")
        elif others := sorted({row.label for row in labelled.values()} - set(classes)):
            shown = listed([safe_text(one) for one in others])
            say(f"{name} is not taken as labelled: the student has no class {shown}; change or remove these rows")
        else:
            truths |= {file: row.label for file, row in labelled.items()}
    for folder in folders:
        parts = {file: file.relative_to(folder).parts for file in files if file.is_relative_to(folder)}
        labels = {file: part[0] for file, part in parts.items() if len(part) > 1}
        others = sorted(set(labels.values()) - set(classes))
        if not others:
            truths |= labels
        elif len(others) < len(set(labels.values())):
            shown = listed([safe_text(name) for name in others])
            say(f"{folder} is not taken as labelled: the student has no class {shown}; rename or move that folder")
    return [truths.get(file) for file in files]


def true_label_sets(names: Iterable[str | Path]) -> dict[Path, tuple[str, ...]]:
    """Find the true labels of the images of tables with several labels an image, sorted, by the file."""
    rows = chain.from_iterable((_labels(name, lambda _: None) or {}).items() for name in names)
    return {file: row.classes for file, row in rows if row.classes is not None}


def reader_of(names: Iterable[str | Path]) -> Read | None:
    """Return a function that reads the images of `find_images`; None where all are files."""
    inside: dict[str, tuple[Read, str]] = {}
    for name in names:
        source = _rows_source(name)
        labels = source.rows(lambda _: None) if source is not None else None
        if labels is not None and labels.read is not None:
            inside |= {str(labels.root / row.path): (labels.read, row.path) for row in labels.rows}

    def read(path: str) -> bytes:
        if path not in inside:
            return Path(path).read_bytes()
        reader, name = inside[path]
        return reader(name)

    return read if inside else None


def _labels(name: str | Path, fault: Callable[[str], None]) -> dict[Path, Row] | None:
    """Return the rows of a table or a data set of Hugging Face by file; None for other names."""
    source = _rows_source(name)
    labels = source.rows(fault) if source is not None else None
    return None if labels is None else {labels.root / row.path: row for row in labels.rows}


def _rows_source(name: str | Path) -> Source | None:
    # A name of the catalogue is a file here.
    place = name if has_prefix(name) else Path(name)
    return find_source(place) if is_source(place) else None


def _places(name: str | Path) -> list[Path]:
    try:
        place = Path(name).expanduser()
    except RuntimeError:  # "~" without a home folder: the sign itself
        place = Path(name)
    if place.exists():
        return [place]
    if not has_magic(str(place)):
        raise InputError(f"there is no file or folder {str(name)!r}; expected images, folders of images, or a pattern")
    matches = [Path(match) for match in sorted(glob(str(place), recursive=True))]  # noqa: PTH207 (has no absolute ones)
    # `**` also returns the folders on the way, whose files it returns anyway.
    files = [match for match in matches if not match.is_dir()] if "**" in str(place) else matches
    if not files:
        raise InputError(f"the pattern {str(name)!r} matches nothing; expected images or folders of them")
    return files


def _in_folder(folder: Path, fault: Callable[[str], None], unused: Callable[[str], None]) -> list[Path]:
    images = images_below(folder, fault, unused=unused)
    if not images:
        known = " ".join(sorted(ending[1:] for ending in read_endings()))
        raise InputError(f"{folder} holds no images; expected files that end in {known}, at any depth")
    return images
