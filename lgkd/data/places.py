"""Where named data sets lie: image trees, publishers' files, and what to say where there is neither.

Searched in this order: `data_dir` (by default ./data), then the user's store. What is downloaded goes to the store.
"""

from pathlib import Path

from lgkd.assets import home
from lgkd.data.catalogue import PUBLISHED, DataSetInfo, PublishedFile
from lgkd.data.download import OFFLINE, Progress, fetch, is_offline, verified
from lgkd.errors import MissingError


def store(info: DataSetInfo) -> Path:
    """The folder of the user's store where the files of a named data set lie."""
    return home() / "data" / info.name


def arranged(info: DataSetInfo) -> Path:
    """Where an image tree goes that is made of the publisher's files."""
    return store(info) / "images"


def tree_folder(info: DataSetInfo, data_dir: str | Path | None) -> Path | None:
    """The first folder with train and test, or None."""
    places = [*_searched(info, data_dir), arranged(info)]
    if data_dir is None:
        places.remove(_folder(data_dir))  # ./data itself holds data sets, and is none
    return next((place for place in places if (place / "train").is_dir() and (place / "test").is_dir()), None)


def published_file(
    info: DataSetInfo,
    file: PublishedFile,
    data_dir: str | Path | None,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """A file of the publisher's, its checksum verified: where it lies, or downloaded into the store.

    Raises:
        MissingError: it is not here and cannot be got. With a `data_dir` that is not there nothing is downloaded: it is
            rather mistyped.
        DataError: what lies there, or what came, is not the published file.
    """
    for place in _searched(info, data_dir):
        if (place / file.name).is_file():
            return verified(place / file.name, size=file.bytes, sha256=file.sha256)
    if is_offline(offline) or _mistyped(data_dir):
        raise absent(info, data_dir, offline=offline)
    return fetch(file.url, store(info) / file.name, size=file.bytes, sha256=file.sha256, progress=progress)


def absent(
    info: DataSetInfo, data_dir: str | Path | None, *, offline: bool = False, as_tree: bool = False
) -> MissingError:
    """The error that says where a named data set was looked for, and what to put where.

    Args:
        info: the data set.
        data_dir: where it was to lie.
        offline: whether that is why it was not downloaded.
        as_tree: whether nothing but an image tree will do.
    """
    files = () if as_tree else PUBLISHED.get(info.name, ())
    looked = ", ".join(str(place) for place in _searched(info, data_dir))
    what = "folders train and test" + "".join(f", {file.name}" for file in files)
    first = _folder(data_dir) / info.name
    ways = [f"put its images at {first}/train/CLASS/* and {first}/test/CLASS/*"]
    if _mistyped(data_dir):
        ways.append(f"or correct the folder: {_folder(data_dir)} does not exist")
    elif files:
        ways.append(f"or get {' and '.join(file.url for file in files)} and put {_it(files)} in {store(info)}")
        if is_offline(offline):
            ways.append(f"or let lgkd download {_it(files)}: without --offline, and {OFFLINE} not set")
    here = "here as an image tree" if as_tree else "here"
    return MissingError(f"{info.name} is not {here}; looked for {what} in: {looked}; {', '.join(ways)}")


def _it(files: tuple[PublishedFile, ...]) -> str:
    return "it" if len(files) == 1 else "them"


def _folder(data_dir: str | Path | None) -> Path:
    return Path("data" if data_dir is None else data_dir).expanduser().absolute()


def _mistyped(data_dir: str | Path | None) -> bool:
    return data_dir is not None and not _folder(data_dir).is_dir()


def _searched(info: DataSetInfo, data_dir: str | Path | None) -> list[Path]:
    folder = _folder(data_dir)
    return list(dict.fromkeys([folder / info.name, folder, store(info)]))
