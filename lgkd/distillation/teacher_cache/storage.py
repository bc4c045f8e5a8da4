"""A cache's folder: `index.json` and one .npy file for each kind of feature, of shape (views, images, ...).

It is written beside its place under a name that begins with a dot, goes on there after it was stopped, and gets its own
name when it is whole. A folder without its index, or with files of other lengths than the index says, is refused.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.atomic_io import flush_folder, write_json
from lgkd._internal.paths import home
from lgkd.errors import BusyError, InputError, MissingError

FORMAT = 1
INDEX = "index.json"
_PROGRESS = "progress.json"
_OURS = re.compile(rf"[^.]+\.npy|(?:{INDEX}|{_PROGRESS})|\.(?:{INDEX}|{_PROGRESS})\.\d+\.[0-9a-f]+\.tmp")

Storage = Literal["fp16", "fp32"]
_DTYPES: dict[str, str] = {"fp16": "<f2", "fp32": "<f4"}

Identity = dict[str, Any]
"""What a cache is of: flat, in plain JSON values. Two trainings with equal identities read the same features."""


@dataclass(frozen=True)
class Layout:
    """What a cache holds.

    Attributes:
        shapes: of each kind of feature for one image, such as {"map1": (16, 32, 32)}.
        views: of each image.
        images: how many there are.
        storage: the number format.
    """

    shapes: Mapping[str, tuple[int, ...]]
    views: int
    images: int
    storage: Storage = "fp16"

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            raise InputError(f"the storage is {self.storage!r}, expected fp16 or fp32")
        if self.views < 1:
            raise InputError(f"{self.views} views of each image were asked for, expected at least 1")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the files."""
        return np.dtype(_DTYPES[self.storage])

    def row_bytes(self, name: str) -> int:
        """Of one image in one view."""
        return int(np.prod(self.shapes[name])) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Of all files, but for some hundred bytes of headers."""
        return self.views * self.images * sum(self.row_bytes(name) for name in self.shapes)


@dataclass(frozen=True)
class Cache:
    """A whole cache that was opened.

    Attributes:
        folder: where it lies.
        identity: what it is of.
        layout: what it holds.
        arrays: mapped from the files, (views, images, ...) each.
    """

    folder: Path
    identity: Identity
    layout: Layout
    arrays: Mapping[str, NDArray[Any]]


def key_of(identity: Identity, layout: Layout) -> str:
    """The name of a cache in the store."""
    about = [FORMAT, identity, {name: list(shape) for name, shape in layout.shapes.items()}, layout.storage]
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def features_folder() -> Path:
    """Where caches lie in the store."""
    return home() / "cache" / "features"


def stored_caches() -> list[Path]:
    """The folders of all caches in the store, sorted."""
    return sorted(path.parent for path in features_folder().glob(f"[!.]*/{INDEX}"))


def read_index(folder: Path) -> dict[str, Any]:
    """A cache's index, found to be as it was written.

    Raises:
        MissingError: there is no such folder.
        InputError: it holds no whole cache.
    """
    file = folder / INDEX
    if not folder.is_dir():
        raise MissingError(f"there is no folder {folder}; expected one that `lgkd cache-teacher` made")
    if not file.is_file():
        raise InputError(f"{folder} holds no {INDEX}, so it is no cache; expected a folder of `lgkd cache-teacher`")
    try:
        index = json.loads(file.read_text("utf-8"))
        checksum = index.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{file} is damaged; remove the folder and make it again by `lgkd cache-teacher`") from None
    if checksum != _checksum(index):
        raise InputError(f"{file} is damaged; remove the folder and make it again by `lgkd cache-teacher`")
    if index["format"] != FORMAT:
        raise InputError(f"{file} has format {index['format']}, this lgkd reads format {FORMAT}; make the cache again")
    return index  # type: ignore[no-any-return]


def open_cache(folder: Path) -> Cache:
    """Map a cache's files.

    Raises:
        MissingError: there is no such folder.
        InputError: it holds no whole cache.
    """
    index = read_index(folder)
    shapes = {name: tuple(about["shape"]) for name, about in index["files"].items()}
    layout = Layout(shapes, index["views"], index["images"], index["storage"])
    arrays = {}
    for name, about in index["files"].items():
        file = folder / f"{name}.npy"
        size = file.stat().st_size if file.is_file() else 0
        if size != about["bytes"]:
            raise InputError(
                f"{file} has {size:,} bytes, its {INDEX} says {about['bytes']:,}; the cache is damaged, remove the "
                "folder and make it again by `lgkd cache-teacher`"
            )
        try:
            array = np.lib.format.open_memmap(file, mode="r")  # this form alone, and no objects
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); remove the folder and make the cache again") from None
        if array.shape != (layout.views, layout.images, *shapes[name]) or array.dtype != layout.dtype:
            raise InputError(
                f"{file} holds {array.dtype} {array.shape}, which is not what its {INDEX} says; remove the folder and "
                "make the cache again"
            )
        arrays[name] = array
    return Cache(folder, index["identity"], layout, arrays)


def difference(found: Identity, wanted: Identity) -> str | None:
    """The first thing in which two identities differ, in words; None where they are equal."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if found.get(key) != wanted.get(key):
            return f"{key}: the cache has {_short(found.get(key))}, this training {_short(wanted.get(key))}"
    return None


class Writer:
    """Writes a cache row by row, and goes on where an earlier one was stopped.

    Args:
        folder: its place; must not be there.
        identity, layout: of the cache.
        about: more for the index, such as the version of lgkd.

    Attributes:
        done: rows that are there already; a row is one image in one view, views come one after the other.

    Raises:
        BusyError: another process is writing it.
        InputError: the folder beside its place, in which it is written, holds something else.
    """

    def __init__(self, folder: Path, identity: Identity, layout: Layout, about: Mapping[str, Any]) -> None:
        self.folder, self.identity, self.layout, self.about = folder, identity, layout, about
        self.total = layout.views * layout.images
        self._part = folder.parent / f".{folder.name}.part"
        self._part.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(self._part)
        self.done = self._found()
        if not self.done:
            self._empty()
        self._files: dict[str, BinaryIO] = {}
        for name, shape in layout.shapes.items():
            path = self._part / f"{name}.npy"
            file = path.open("r+b" if self.done else "w+b")
            header = {"descr": layout.dtype.str, "fortran_order": False, "shape": (layout.views, layout.images, *shape)}
            np.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call, unused-ignore]
            # What lies beyond the last row that was recorded may be half a row.
            file.seek(file.tell() + self.done * layout.row_bytes(name))
            file.truncate()
            self._files[name] = file

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """The next rows: for each kind of feature an array (n, ...) of the layout's number format."""
        counts = {len(values) for values in rows.values()}
        assert rows.keys() == self._files.keys() and len(counts) == 1
        for name, values in rows.items():
            self._files[name].write(np.ascontiguousarray(values).data)
        self.done += counts.pop()

    def record(self) -> None:
        """Make sure that the rows so far are on the disk, and remember how many there are."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self._part / _PROGRESS, {"of": key_of(self.identity, self.layout), "rows": self.done})

    def finish(self) -> Path:
        """Give the whole cache its name."""
        assert self.done == self.total
        self.record()
        index: dict[str, Any] = {
            "format": FORMAT,
            **self.about,
            "identity": self.identity,
            "views": self.layout.views,
            "images": self.layout.images,
            "storage": self.layout.storage,
            "files": {
                name: {"shape": list(shape), "bytes": (self._part / f"{name}.npy").stat().st_size}
                for name, shape in self.layout.shapes.items()
            },
        }
        index["checksum"] = _checksum(index)
        write_json(self._part / INDEX, index)
        (self._part / _PROGRESS).unlink()
        for file in self._files.values():
            file.close()
        self._part.rename(self.folder)
        flush_folder(self.folder.parent)
        return self.folder

    def close(self) -> None:
        """Let go of the files; what is not recorded is written again."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _empty(self) -> None:
        """Remove what an earlier cache left here; only what a cache writes."""
        left = sorted(self._part.iterdir())
        foreign = [path.name for path in left if not _OURS.fullmatch(path.name)]
        if foreign:
            raise InputError(
                f"{self._part} holds {foreign[0]}, which is none of a cache's files; move it away, or choose another "
                "--out"
            )
        for path in left:
            path.unlink()

    def _found(self) -> int:
        """Rows that an earlier process recorded of the same cache."""
        try:
            progress = json.loads((self._part / _PROGRESS).read_text("utf-8"))
            whole = all(
                (self._part / f"{name}.npy").stat().st_size >= progress["rows"] * self.layout.row_bytes(name)
                for name in self.layout.shapes
            )
            same = progress["of"] == key_of(self.identity, self.layout)
            return int(progress["rows"]) if whole and same and 0 <= progress["rows"] <= self.total else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def _hold(folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # as for runs: Windows has no such lock
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BusyError(f"{folder} is being written by another process; wait for its end") from None
    except OSError:
        pass  # many network file systems lock no folders
    return handle


def _checksum(index: Mapping[str, Any]) -> str:
    return sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
