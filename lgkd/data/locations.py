"""Find named data sets: image trees, publishers' files, and the error where there is neither.

Searched in this order: `data_dir` (by default ./data), then the user's store. Downloads go to the store.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from lgkd._internal.paths import home
from lgkd._internal.text import did_you_mean
from lgkd.data.catalogue import CATALOGUE, DataSetInfo, PublishedFile, published
from lgkd.data.image_folder import LAYOUT
from lgkd.data.multi_label import FORMS, is_table
from lgkd.data.sources.download import OFFLINE, fetch, is_offline, verified
from lgkd.errors import DataError, InputError, MissingError

Downloading = Callable[[str, int, int], None]
"""Called with a file's name, the bytes received, and all of them."""


def known_or_folder(name: str | Path) -> Path | None:
    """Return None for a name of the catalogue, else the folder or table of that name; a `Path` is never a name.

    Raises:
        InputError: neither a name nor a folder nor a table.
    """
    if isinstance(name, str) and name in CATALOGUE:
        return None
    expected = f"a data set is one of {', '.join(sorted(CATALOGUE))}, or a folder: {LAYOUT}, or {FORMS}"
    if not str(name).strip():
        raise InputError(f"the name of the data set is empty: {expected}")
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # "~" without a home folder: the sign itself
        folder = Path(name)
    if folder.is_dir() or is_table(folder):
        return folder
    if folder.exists():
        raise InputError(f"{str(name)!r} is a file: {expected}")
    if isinstance(name, Path):
        raise DataError(f"no folder {name}: expected {LAYOUT}")
    raise InputError(
        f"{name!r} is neither a known data set nor a folder; {did_you_mean(name, CATALOGUE)} (a folder holds {LAYOUT})"
    )


def store(info: DataSetInfo) -> Path:
    """Return the folder of the user's store for the files of a named data set."""
    return home() / "data" / info.folder


def arranged(info: DataSetInfo) -> Path:
    """Return the folder of an image tree that is made of downloaded files."""
    return store(info) / "images"


def target(info: DataSetInfo, data_dir: str | Path | None) -> Path:
    """Return the folder for the image tree of a named set, put there by hand or by `lgkd arrange`."""
    return folder_of(data_dir) / info.folder


def folder_of(data_dir: str | Path | None) -> Path:
    """Return `data_dir` itself, by default ./data; absolute, and it need not exist."""
    return Path("data" if data_dir is None else data_dir).expanduser().absolute()


def tree_folder(info: DataSetInfo, data_dir: str | Path | None) -> Path | None:
    """Return the first folder with all training folders and test, or None; the publisher's own does not count."""
    places = [*_searched(info, data_dir), arranged(info)]
    if data_dir is None:
        places.remove(folder_of(data_dir))  # ./data itself holds data sets, and is not one
    wanted = (*info.trains_on, "test")
    return next((p for p in places if all((p / part).is_dir() for part in wanted) and not _is_raw(info, p)), None)


def published_file(
    info: DataSetInfo,
    file: PublishedFile,
    data_dir: str | Path | None,
    *,
    offline: bool = False,
    downloading: Downloading | None = None,
) -> Path:
    """Find a file of the publisher's, or download it into the store, and verify its checksum.

    Raises:
        MissingError: it is not here and cannot be downloaded. With a `data_dir` that does not exist, which is probably
            mistyped, nothing is downloaded.
        DataError: the file there, or the downloaded one, is not the published file.
    """
    for place in _searched(info, data_dir):
        if (place / file.name).is_file():
            return verified(place / file.name, size=file.bytes, sha256=file.sha256)
    if is_offline(offline) or _mistyped(data_dir):
        raise absent(info, data_dir, offline=offline)

    def progress(done: int, total: int) -> None:
        if downloading is not None:
            downloading(file.name, done, total)

    return fetch(file.url, store(info) / file.name, size=file.bytes, sha256=file.sha256, progress=progress)


def files_here(info: DataSetInfo, data_dir: str | Path | None) -> Path | None:
    """Return the first folder with all of the publisher's files, by name and size; their content is not read."""

    def is_here(place: Path, file: PublishedFile) -> bool:
        return (place / file.name).is_file() and (place / file.name).stat().st_size == file.bytes

    return next((p for p in _searched(info, data_dir) if all(is_here(p, file) for file in published(info))), None)


def absent(
    info: DataSetInfo, data_dir: str | Path | None, *, offline: bool = False, as_tree: bool = False
) -> MissingError:
    """Build the error that names the searched folders of a data set, and the ways to get it.

    Args:
        info: the data set.
        data_dir: folder of named sets.
        offline: whether downloads were turned off.
        as_tree: whether an image tree is required.
    """
    files = () if as_tree else published(info)
    looked = ", ".join(str(place) for place in _searched(info, data_dir))
    wanted = [*info.trains_on, "test"]
    what = f"folders {', '.join(wanted[:-1])} and test" + "".join(f", {file.name}" for file in files)
    first = target(info, data_dir)
    raw = next((place for place in _searched(info, data_dir) if _is_raw(info, place)), None)
    ways = [_arranging(info, data_dir, raw)] if info.lists else []
    ways.append(f"put its images at {' and '.join(f'{first}/{part}/CLASS/*' for part in wanted)}")
    if _mistyped(data_dir):
        ways.append(f"correct the folder: {folder_of(data_dir)} does not exist")
    elif files:
        ways.append(f"get {' and '.join(file.url for file in files)} and put {_it(files)} in {store(info)}")
        if is_offline(offline):
            ways.append(f"let lgkd download {_it(files)}: without --offline, and {OFFLINE} not set")
    here = "here as an image tree" if as_tree or info.lists else "here"
    return MissingError(f"{info.name} is not {here}; looked for {what} in: {looked}; {', or '.join(ways)}")


def _arranging(info: DataSetInfo, data_dir: str | Path | None, raw: Path | None) -> str:
    """Return the command that makes the image tree, as it is typed."""
    place = "SOURCE" if raw is None else shlex.quote(str(raw))
    where = ""
    if raw is not None and raw == target(info, data_dir):  # there the tree cannot go
        where = " --data-dir ANOTHER"
    elif data_dir is not None:
        where = f" --data-dir {shlex.quote(str(data_dir))}"
    source = "" if raw is not None else f" (his zip or folder; `lgkd datasets {info.name}` names the publisher)"
    return f"lay out the publisher's files by: lgkd arrange {info.name} {place}{where}{source}"


def _is_raw(info: DataSetInfo, place: Path) -> bool:
    """Return True for a folder in its publisher's layout: with his lists, and no class in both train and test."""
    if not any((place / name).is_file() for name in info.lists):
        return False
    below = (place / "test").iterdir() if (place / "test").is_dir() else iter(())
    return not any(path.is_dir() and (place / "train" / path.name).is_dir() for path in below)


def _it(files: tuple[PublishedFile, ...]) -> str:
    return "it" if len(files) == 1 else "them"


def _mistyped(data_dir: str | Path | None) -> bool:
    return data_dir is not None and not folder_of(data_dir).is_dir()


def _searched(info: DataSetInfo, data_dir: str | Path | None) -> list[Path]:
    folder = folder_of(data_dir)
    return list(dict.fromkeys([folder / info.folder, folder, store(info)]))
