"""Keep decoded images in the user's store, so that a data set is decoded once.

An entry is a folder `cache/images/KEY/` of the store: `pixels.npy`, `sizes.npy`, `index.json` and the manifest of
these. It is written beside its place, synced and renamed, so that it is complete or absent. A damaged entry is made
again, with a remark; where the store cannot be used, the images are decoded into memory. Pixels up
to a size are compared with the manifest at once, those of larger entries block by block as they are first read.
"""

import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.atomic_io import json_sha256
from lgkd._internal.blocks import CheckedRows
from lgkd._internal.leftovers import Scratch, remove_leftover
from lgkd._internal.manifest import BlockDigests, Entry, compare, read_manifest, tell_unverified, write_manifest
from lgkd._internal.paths import home
from lgkd.data.decode import Allocate, in_memory
from lgkd.data.listing import File
from lgkd.errors import InputError, Remark

FORMAT = 2
"""Counted up whenever decoding or the files of an entry change."""

_BLOCK = 2**24
_AT_ONCE = 2**30
"""Bytes of pixels that are compared with the manifest before any of them is read; more are compared block by block."""
PIXELS, SIZES, INDEX = "pixels.npy", "sizes.npy", "index.json"
_SCRATCH = re.compile(r"\.[0-9a-f]{16}-[0-9a-f]{40}-[0-9a-f]{16}")


class Stored(NamedTuple):
    """Hold all images of a data set, train before test."""

    pixels: NDArray[np.uint8]
    """(N,3,S,T)."""
    sizes: NDArray[np.int32]
    """(N,2): height and width that each image fills."""
    fingerprint: str
    about: dict[str, Any] | None = None
    """Further facts that cannot be listed again, as JSON has them."""
    rows: CheckedRows | None = None
    """Compares pixels with the manifest before they are first read; None where nothing is left to compare."""


Make = Callable[[Allocate], Stored]
"""Decodes the images into an array from the allocator that it is given."""


def cache_key(root: Path, max_side: int | None, splits: Iterable[Iterable[File]], *more: Any) -> str:
    """Return the name of an entry: its data set, a dash, and a digest of the listing.

    A file counts as changed when its path, size or time of modification changed. The part before the dash
    depends on the folder, `max_side` and `more`, how else images are decoded: entries that share it are states of the
    same thing.
    """
    about = json.dumps([str(root.resolve()), max_side, *more])
    listing = sha256(f"{FORMAT}\n".encode())
    for number, files in enumerate(splits):
        lines = "".join(f"{number}\0{file.path}\0{file.size}\0{file.mtime_ns}\n" for file in files)
        listing.update(lines.encode("utf-8", "surrogateescape"))
    return f"{sha256(about.encode()).hexdigest()[:16]}-{listing.hexdigest()[:40]}"


def published_key(name: str, sums: Iterable[str]) -> str:
    """Return the name of an entry as `cache_key` does, from the checksums of the publisher's files."""
    about = json.dumps(["published", name])
    content = sha256(json.dumps([FORMAT, *sums]).encode())
    return f"{sha256(about.encode()).hexdigest()[:16]}-{content.hexdigest()[:40]}"


def kept(key: str, count: int, make: Make, *, at_once: bool = True) -> Stored:
    """Read an entry from the store, or make it by `make` and store it.

    Args:
        key: from `cache_key` or `published_key`.
        count: number of images.
        make: called once, if at all; its errors are passed on and leave nothing behind.
        at_once: compare pixels up to a size with the manifest at once, which reads all; else block by block.

    Returns:
        Pixels are mapped from the file, copy on write: changing them changes no file.
    """
    folder = home() / "cache" / "images" / key
    try:
        found = _load(folder, count, at_once)
    except InputError as error:
        warnings.warn(f"the decoded images kept in {folder} are made again: {error}", Remark, stacklevel=2)
    else:
        if found is not None:
            return found
    try:
        # Not tempfile's folder: nobody else may read that, and a store can be shared.
        made_in = Scratch(folder)
    except OSError:  # a store that cannot be written only costs time
        return make(in_memory)
    with made_in as scratch:
        made = make(lambda shape: _on_disk(scratch / PIXELS, shape))
        if not isinstance(made.pixels, np.memmap):
            return made
        with suppress(OSError):
            _write(scratch, made)
            _publish(scratch, folder, count)
            _sweep(folder)
        return _whole(folder, count, at_once) or made


def _load(folder: Path, count: int, at_once: bool = True) -> Stored | None:
    """Read the entry; None where there is none.

    Raises:
        InputError: it is damaged in any way.
    """
    if not (folder / INDEX).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        record = json.loads((folder / INDEX).read_text("utf-8"))
        sizes_file = (folder / SIZES).read_bytes()
        whole = (
            record.pop("checksum") == json_sha256(record)
            and record["format"] == FORMAT
            and record["shape"][0] == count
            and record["sizes"] == sha256(sizes_file).hexdigest()
            and record["bytes"] == (folder / PIXELS).stat().st_size
        )
        if not whole:
            raise InputError(f"{folder / INDEX} does not describe the files beside it, so they are damaged")
        sizes = np.load(io.BytesIO(sizes_file), allow_pickle=False)
        pixels = _mapped(folder / PIXELS)
        if list(pixels.shape) != record["shape"] or pixels.dtype != np.uint8:
            raise InputError(f"{folder / PIXELS} is not the array of pixels that its {INDEX} says; it is damaged")
        if manifest is None:
            tell_unverified(folder)
        rows = _checked(folder, pixels, manifest, at_once) if manifest is not None else None
        return Stored(pixels, sizes, str(record["fingerprint"]), record.get("about"), rows)
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} cannot be read ({type(error).__name__})") from None


def _checked(
    folder: Path, pixels: NDArray[np.uint8], manifest: Mapping[str, Entry], at_once: bool
) -> CheckedRows | None:
    """Return the check of pixels that are read later; None where all were compared now."""
    for name in (SIZES, INDEX):
        compare(folder / name, manifest)
    rows = CheckedRows(
        pixels,
        compare(folder / PIXELS, manifest).blocks,
        folder / PIXELS,
        "it was put aside: run the same command again, which decodes the images again",
        damaged=lambda: (folder / INDEX).unlink(missing_ok=True),  # without it there is no entry
    )
    if pixels.nbytes > _AT_ONCE or not at_once:
        return rows
    rows.check()
    return None


def _whole(folder: Path, count: int, at_once: bool = False) -> Stored | None:
    """Return the entry, or None where it is missing or damaged in any way."""
    try:
        return _load(folder, count, at_once)
    except InputError:
        return None


def _mapped(path: Path) -> NDArray[np.uint8]:
    # Copy on write lets torch take the array without a warning that it must not be written.
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)  # type: ignore[no-any-return]
    except OSError:
        # Linux may refuse a private mapping larger than memory; a shared one that is only read it grants.
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _on_disk(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Allocate an array in a new file, or in memory where the disk has no room for it."""
    try:
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            _reserve(file, file.tell(), int(np.prod(shape, dtype=np.int64)))
        return np.load(path, mmap_mode="r+", allow_pickle=False)  # type: ignore[no-any-return]
    except OSError:
        return in_memory(shape)


def _reserve(file: BinaryIO, start: int, length: int) -> None:
    # Writing to the mapping of a sparse file on a full disk kills the process; an error here does not.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, length)
        return
    for place in range(0, length, _BLOCK):
        file.write(bytes(min(_BLOCK, length - place)))


def _write(scratch: Path, made: Stored) -> None:
    """Complete an entry whose pixels are in place, and sync it."""
    buffer = io.BytesIO()
    np.save(buffer, made.sizes)
    record: dict[str, Any] = {
        "format": FORMAT,
        "shape": list(made.pixels.shape),
        "bytes": (scratch / PIXELS).stat().st_size,
        "sizes": sha256(buffer.getvalue()).hexdigest(),
        "fingerprint": made.fingerprint,
    }
    if made.about is not None:
        record["about"] = made.about
    record["checksum"] = json_sha256(record)
    (scratch / SIZES).write_bytes(buffer.getvalue())
    (scratch / INDEX).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    if isinstance(made.pixels, np.memmap):
        made.pixels.flush()
    digests = BlockDigests()
    digests.update(made.pixels.reshape(-1).data)
    write_manifest(scratch, (SIZES, INDEX), {PIXELS: digests.all()})
    for path in scratch.iterdir():
        _sync(path)
    _sync(scratch)


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(scratch: Path, folder: Path, count: int) -> None:
    """Move a finished entry to its place, unless another process has put a whole one there."""
    try:
        scratch.rename(folder)
    except OSError:
        if _whole(folder, count) is not None:
            return
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink()
        scratch.rename(folder)
    _sync(folder.parent)


def _sweep(folder: Path) -> None:
    """Remove older states of the entries in `folder`, and leftovers of killed processes."""
    about = folder.name.split("-")[0]
    for other in folder.parent.iterdir():
        older = other.name.startswith(f"{about}-") and other.name != folder.name
        if older:
            shutil.rmtree(other, ignore_errors=True)
        elif _SCRATCH.fullmatch(other.name):
            remove_leftover(other)
