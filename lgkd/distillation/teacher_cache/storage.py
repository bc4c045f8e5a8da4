"""Read and write cache folders: `index.json`, a manifest, and an .npy file (views, images, ...) per kind of feature.

A cache is written next to its final folder under a hidden name, resumed there after an interruption (if the recorded
rows are intact), and renamed when it is complete. A folder without its index, or with files of other lengths than in
the index, is refused; arrays are compared with the manifest block by block as they are read.
"""

import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.atomic_io import flush_folder, json_sha256, write_json
from lgkd._internal.blocks import CheckedRows
from lgkd._internal.locks import LockedError, locked
from lgkd._internal.manifest import MANIFEST, BlockDigests, compare, read_manifest, tell_unverified, write_manifest
from lgkd._internal.paths import home
from lgkd.errors import BusyError, InputError, MissingError

FORMAT = 1
INDEX = "index.json"
_PROGRESS = "progress.json"
_JSON = rf"(?:{INDEX}|{_PROGRESS}|{MANIFEST})"
_OURS = re.compile(rf"[^.]+\.npy|{_JSON}|\.{_JSON}\.\d+\.[0-9a-f]+\.tmp")
_AGAIN = "remove the folder and make it again by `lgkd cache-teacher`"
_PIECE = 2**22

Storage = Literal["fp16", "fp32"]
_DTYPES: dict[str, str] = {"fp16": "<f2", "fp32": "<f4"}

Identity = dict[str, Any]
"""Identity of a cache: flat, in plain JSON values. Two trainings with equal identities read the same features."""


@dataclass(frozen=True)
class Layout:
    """Describe the contents of a cache.

    Attributes:
        shapes: shape of each kind of feature for one image, such as {"map1": (16, 32, 32)}.
        views: number of views of each image.
        images: number of images.
        storage: number format.
    """

    shapes: Mapping[str, tuple[int, ...]]
    views: int
    images: int
    storage: Storage = "fp16"

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            raise InputError(f"the storage is {self.storage!r}, expected fp16 or fp32")
        if self.views < 1:
            raise InputError(f"{self.views} views of each image were requested, expected at least 1")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the number format of the files."""
        return np.dtype(_DTYPES[self.storage])

    def row_bytes(self, name: str) -> int:
        """Return the bytes of one image in one view."""
        return int(np.prod(self.shapes[name])) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Return the bytes of all files, except for some hundred bytes of headers."""
        return self.views * self.images * sum(self.row_bytes(name) for name in self.shapes)


@dataclass(frozen=True)
class Cache:
    """Read a complete cache.

    Attributes:
        folder: folder of the cache.
        identity: identity of the cache.
        layout: contents of the cache.
        arrays: memory-mapped from the files, (views, images, ...) each.
        rows: compare an array with its digests before it is first read; empty for caches of older versions.
    """

    folder: Path
    identity: Identity
    layout: Layout
    arrays: Mapping[str, NDArray[Any]]
    rows: Mapping[str, CheckedRows] = field(default_factory=dict)

    def read(self, name: str, view: int, places: NDArray[np.int64]) -> NDArray[Any]:
        """Return the teacher's features of a view of some images, (n, ...), verified against the manifest.

        Raises:
            InputError: the cache is corrupt.
        """
        if name in self.rows:
            self.rows[name].check(view * self.layout.images + places)
        found: NDArray[Any] = self.arrays[name][view, places]
        return found


def key_of(identity: Identity, layout: Layout) -> str:
    """Return the name of a cache in the store."""
    about = [FORMAT, identity, {name: list(shape) for name, shape in layout.shapes.items()}, layout.storage]
    return json_sha256(about)[:24]


def features_folder() -> Path:
    """Return the folder of all caches in the store."""
    return home() / "cache" / "features"


def stored_caches() -> list[Path]:
    """List the folders of all caches in the store, sorted."""
    return sorted(path.parent for path in features_folder().glob(f"[!.]*/{INDEX}"))


def read_index(folder: Path) -> dict[str, Any]:
    """Read a cache's index, verified against the manifest.

    The arrays are verified as they are read, by `Cache.read`.

    Raises:
        MissingError: there is no such folder.
        InputError: it holds no whole cache.
    """
    file = folder / INDEX
    if not folder.is_dir():
        raise MissingError(f"there is no folder {folder}; expected one that `lgkd cache-teacher` created")
    if not file.is_file():
        raise InputError(f"{folder} has no {INDEX}; expected a cache created by `lgkd cache-teacher`")
    try:
        index = json.loads(file.read_text("utf-8"))
        checksum = index.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{file} is corrupt; remove the folder and recreate it by `lgkd cache-teacher`") from None
    if checksum != json_sha256(index):
        raise InputError(f"{file} is corrupt; remove the folder and recreate it by `lgkd cache-teacher`")
    if index["format"] != FORMAT:
        raise InputError(f"{file} has format {index['format']}, this lgkd reads format {FORMAT}; recreate the cache")
    return index  # type: ignore[no-any-return]


def open_cache(folder: Path) -> Cache:
    """Open a cache by memory-mapping its files.

    Raises:
        MissingError: there is no such folder.
        InputError: it holds no whole cache.
    """
    index = read_index(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        tell_unverified(folder)
    shapes = {name: tuple(about["shape"]) for name, about in index["files"].items()}
    layout = Layout(shapes, index["views"], index["images"], index["storage"])
    arrays, rows = {}, {}
    for name, about in index["files"].items():
        file = folder / f"{name}.npy"
        size = file.stat().st_size if file.is_file() else 0
        if size != about["bytes"]:
            raise InputError(
                f"{file} has {size:,} bytes, expected {about['bytes']:,} by its {INDEX}; the cache is corrupt, remove "
                "the folder and create it again by `lgkd cache-teacher`"
            )
        try:
            array = np.lib.format.open_memmap(file, mode="r")  # never unpickles objects
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); remove the folder and create the cache again") from None
        if array.shape != (layout.views, layout.images, *shapes[name]) or array.dtype != layout.dtype:
            raise InputError(
                f"{file} has {array.dtype} {array.shape}, which differs from its {INDEX}; remove the folder and "
                "create the cache again"
            )
        arrays[name] = array
        if manifest is not None:
            digests = compare(file, manifest).blocks
            rows[name] = CheckedRows(array, digests, file, _AGAIN, rows=layout.views * layout.images)
    return Cache(folder, index["identity"], layout, arrays, rows)


def difference(found: Identity, wanted: Identity) -> str | None:
    """Describe the first difference of two identities; None if they are equal."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if found.get(key) != wanted.get(key):
            return f"{key}: the cache has {_short(found.get(key))}, this training {_short(wanted.get(key))}"
    return None


class Writer:
    """Write a cache row by row, and resume an interrupted one.

    Args:
        folder: final folder; must not exist.
        identity, layout: of the cache.
        about: more entries of the index, such as the version of lgkd.

    Attributes:
        done: number of rows already written; a row is one image in one view, ordered by view.

    Raises:
        BusyError: another process is writing it.
        InputError: the hidden folder in which it is written contains foreign files.
    """

    def __init__(self, folder: Path, identity: Identity, layout: Layout, about: Mapping[str, Any]) -> None:
        self.folder, self.identity, self.layout, self.about = folder, identity, layout, about
        self.total = layout.views * layout.images
        self._part = folder.parent / f".{folder.name}.part"
        self._part.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        self._held = ExitStack()
        try:
            self._held.enter_context(locked(folder.parent / f".{folder.name}.lock"))
        except LockedError:
            raise BusyError(f"{self._part} is being written by another process; wait until it finishes") from None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the files after the last recorded row, or empty ones."""
        self._digests = {name: BlockDigests() for name in self.layout.shapes}
        self.done = self._found()
        if not self.done:
            self._empty()
        for name, shape in self.layout.shapes.items():
            path = self._part / f"{name}.npy"
            self._files[name] = file = path.open("r+b" if self.done else "w+b")
            file.write(_header(self.layout, shape))
            # Bytes after the last recorded row may be a partial row.
            file.seek(file.tell() + self.done * self.layout.row_bytes(name))
            file.truncate()

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Append rows: for each kind of feature an array (n, ...) of the layout's number format."""
        counts = {len(values) for values in rows.values()}
        assert rows.keys() == self._files.keys() and len(counts) == 1
        for name, values in rows.items():
            plain = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            self._files[name].write(plain)
            self._digests[name].update(plain)
        self.done += counts.pop()

    def record(self) -> None:
        """Flush the rows so far to the disk, and record their number."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        about = {"of": key_of(self.identity, self.layout), "rows": self.done, "digest": self._digest()}
        write_json(self._part / _PROGRESS, about)

    def _digest(self) -> str:
        """Compute the SHA-256 of the digests of all rows so far."""
        return json_sha256({name: digests.all() for name, digests in self._digests.items()})

    def finish(self) -> Path:
        """Write the index of the complete cache and rename it to its final folder."""
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
        index["checksum"] = json_sha256(index)
        write_json(self._part / INDEX, index)
        blocks = {f"{name}.npy": digests.all() for name, digests in self._digests.items()}
        write_manifest(self._part, (INDEX,), blocks)
        (self._part / _PROGRESS).unlink()
        for file in self._files.values():
            file.close()
        self._part.rename(self.folder)
        flush_folder(self.folder.parent)
        return self.folder

    def close(self) -> None:
        """Close the files; rows that are not recorded will be written again."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        self._held.close()

    def _empty(self) -> None:
        """Remove files of an earlier cache; refuse if others are found."""
        left = sorted(self._part.iterdir())
        foreign = [path.name for path in left if not _OURS.fullmatch(path.name)]
        if foreign:
            raise InputError(
                f"{self._part} holds {foreign[0]}, which does not belong to a cache; move it away, or choose another "
                "--out"
            )
        for path in left:
            path.unlink()

    def _found(self) -> int:
        """Count the rows that an earlier process recorded of the same cache."""
        try:
            progress = json.loads((self._part / _PROGRESS).read_text("utf-8"))
            whole = all(
                (self._part / f"{name}.npy").stat().st_size >= progress["rows"] * self.layout.row_bytes(name)
                for name in self.layout.shapes
            )
            same = progress["of"] == key_of(self.identity, self.layout)
            if whole and same and 0 <= progress["rows"] <= self.total and self._reads_as(progress):
                return int(progress["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._digests = {name: BlockDigests() for name in self.layout.shapes}
        return 0

    def _reads_as(self, progress: Mapping[str, Any]) -> bool:
        """Restore the recorded rows' digests; return True if the rows match them, where digests were recorded."""
        for name, shape in self.layout.shapes.items():
            left = progress["rows"] * self.layout.row_bytes(name)
            with (self._part / f"{name}.npy").open("rb") as file:
                file.seek(len(_header(self.layout, shape)))
                while left and (piece := file.read(min(left, _PIECE))):
                    self._digests[name].update(piece)
                    left -= len(piece)
        return bool(progress.get("digest", self._digest()) == self._digest())


def _header(layout: Layout, shape: tuple[int, ...]) -> bytes:
    """Return the .npy header of the file of a kind of feature."""
    text = io.BytesIO()
    about = {"descr": layout.dtype.str, "fortran_order": False, "shape": (layout.views, layout.images, *shape)}
    np.lib.format.write_array_header_2_0(text, about)  # type: ignore[no-untyped-call, unused-ignore]
    return text.getvalue()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
