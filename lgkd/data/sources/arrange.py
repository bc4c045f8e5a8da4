"""Make image trees of named data sets from the publisher's files, where lgkd does not download them.

Lists, counts and names are checked before anything is written. The tree is complete or absent.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lgkd._internal.leftovers import Scratch
from lgkd._internal.text import did_you_mean
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.locations import target
from lgkd.data.sources.publisher_files import PublisherFiles, opened
from lgkd.data.sources.source import source_of
from lgkd.errors import InputError, TakenError

Progress = Callable[[int, int], None]


class Arranged(NamedTuple):
    """Describe a tree that was made."""

    name: str
    folder: Path
    classes: int
    train: int
    test: int


def arrangeable() -> tuple[str, ...]:
    """Return the names of the sets that `lgkd arrange` lays out."""
    return tuple(name for name, info in CATALOGUE.items() if info.lists)


def arrange(
    name: str,
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    link: bool = False,
    progress: Progress | None = None,
) -> Arranged:
    """Make DATA_DIR/NAME/train/CLASS/* and DATA_DIR/NAME/test/CLASS/* from the files of a set's publisher.

    Args:
        name: one of `arrangeable()`.
        source: the publisher's zip archive, or the folder that it unpacks to (or the one around that).
        data_dir: folder of named sets; by default ./data. It is made if it does not exist.
        link: hard links instead of copies, from a folder on the same disk.
        progress: called with (done, total) images.

    Raises:
        InputError: no such name, or the tree cannot be written, or not by links.
        MissingError: `source` does not exist.
        TakenError: the folder of the tree is not empty.
        DataError: lists or images are missing, counts are wrong, or a name points outside.
    """
    info = CATALOGUE.get(name)
    if info is None or not info.lists:
        raise InputError(f"there is nothing to arrange for {name!r}; {did_you_mean(name, arrangeable())}")
    folder = target(info, data_dir)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise TakenError(
            f"{folder} is there already and was not touched; move it away, or choose another place with --data-dir"
        )
    with opened(Path(source).expanduser(), link) as files:
        plan = source_of(info).layout(info, PublisherFiles(files, info.lists))
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
    """Make a folder beside `folder` to write into; it is renamed to it at the end, or removed on failure.

    Args:
        folder: absent or empty.
        advice: for the message where it cannot be written.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with Scratch(folder) as scratch:
            yield scratch
            if hasattr(os, "sync"):  # once, since syncing thousands of small files one by one is slow
                os.sync()
            scratch.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; {advice}") from error
