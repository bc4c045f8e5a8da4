"""Write and verify manifests: sizes and SHA-256 of result files, written as the last file of a finished folder.

`MANIFEST.json` is beside its files: of a finished run, an export, a teacher of the store, a cache. Small files have
one SHA-256; arrays of gigabytes have one for each block, so that they can be compared as they are read. The manifest
holds a checksum of itself. A folder of an older lgkd has none; it is read, with a remark. Checkpoints have a manifest
of their own (`lgkd.training.checkpoint`).
"""

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import json_sha256, sha256_of, write_json
from lgkd.errors import InputError, Remark

MANIFEST = "MANIFEST.json"
FORMAT = 1
BLOCK = 2**22
"""Bytes of an array that share a SHA-256."""

_MAX_BYTES = 2**26
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """Record a file's length and hashes.

    Attributes:
        bytes: its length.
        sha256: of the whole file; None where it has blocks.
        blocks: of each `BLOCK` bytes of the array in it, after the file's header; the last one may be shorter.
    """

    bytes: int
    sha256: str | None = None
    blocks: tuple[str, ...] = ()


class BlockDigests:
    """Hash every `BLOCK` bytes of an array that is passed piece by piece."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._open, self._free = sha256(), BLOCK

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        left = memoryview(data).cast("B")
        while len(left) >= self._free:
            self._open.update(left[: self._free])
            left = left[self._free :]
            self._done.append(self._open.hexdigest())
            self._open, self._free = sha256(), BLOCK
        self._open.update(left)
        self._free -= len(left)

    def all(self) -> list[str]:
        """Return the digests so far, including that of an incomplete block."""
        return [*self._done, self._open.hexdigest()] if self._free < BLOCK else [*self._done]


def write_manifest(folder: Path, names: Iterable[str], blocks: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write the manifest of a folder whose files are complete, atomically.

    Args:
        folder: holds the files.
        names: of files with one SHA-256 each.
        blocks: for each file that is compared block by block, the digests of its array; see `BlockDigests`.
    """
    files: dict[str, dict[str, Any]] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names
    }
    for name, digests in (blocks or {}).items():
        files[name] = {"bytes": (folder / name).stat().st_size, "block_bytes": BLOCK, "block_sha256": list(digests)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files, "checksum": json_sha256(files)})


def remove_manifest(folder: Path) -> None:
    """Remove the manifest of a folder whose files are about to be rewritten."""
    (folder / MANIFEST).unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Entry] | None:
    """Read the files of a manifest by name; None where the folder has none.

    Raises:
        InputError: it is damaged, or not one of lgkd's.
    """
    file = folder / MANIFEST
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{file} has more than {_MAX_BYTES:,} bytes, too many for a manifest; move it away")
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); fix that, and run the command again") from None
    except (ValueError, RecursionError):
        value = None
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(files, dict) or value.get("checksum") != json_sha256(files):
        raise InputError(f"{file} is damaged, or not a manifest of lgkd; take it from a copy, or make its folder again")
    if value.get("format") != FORMAT:
        raise InputError(f"{file} is not of format {FORMAT}, which this lgkd reads; use the lgkd that wrote it")
    entries = {name: _entry(about) for name, about in files.items()}
    if not all(entries.values()):
        raise InputError(f"{file} lists a file without a proper size and SHA-256; make its folder again")
    return {name: entry for name, entry in entries.items() if entry is not None}


def verify(folder: Path, names: Iterable[str]) -> bool:
    """Verify files against their folder's manifest; return False where there is none, so that nothing was compared.

    Args:
        folder: holds them.
        names: files that are about to be read. Of a file with blocks only the length is compared.

    Raises:
        InputError: a file is missing, cut or changed, or the manifest itself is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    for name in names:
        compare(folder / name, manifest)
    return True


def compare(file: Path, manifest: Mapping[str, Entry], data: bytes | None = None) -> Entry:
    """Verify one file, or the bytes read from it, against its entry in a manifest.

    Raises:
        InputError: it is missing, cut or changed, or the manifest does not list it.
    """
    entry = manifest.get(file.name)
    if entry is None:
        raise InputError(f"{file} is not listed in the {MANIFEST} beside it; take both from a copy, or make them again")
    try:
        length = file.stat().st_size if data is None else len(data)
        if length != entry.bytes:
            raise InputError(
                f"{file}: has {length:,} bytes, expected {entry.bytes:,} by the {MANIFEST} beside it; it is damaged or "
                "was changed, take it from a copy or make it again"
            )
        if entry.sha256 is None:
            return entry
        found = sha256_of(file) if data is None else sha256(data).hexdigest()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}), and the {MANIFEST} beside it lists it; take it from a copy or "
            "make it again"
        ) from None
    if found != entry.sha256:
        raise InputError(
            f"{file}: has SHA-256 {found}, expected {entry.sha256} by the {MANIFEST} beside it; it is damaged or was "
            "changed, take it from a copy or make it again"
        )
    return entry


def tell_unverified(*places: Path) -> None:
    """Remark, once for all of them, that files without a manifest are read unverified."""
    if places:
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        warnings.warn(
            f"{places[0]}{more} could not be verified: there is no {MANIFEST}, which older versions of lgkd did not "
            "write",
            Remark,
            stacklevel=2,
        )


def _entry(about: Any) -> Entry | None:
    if not isinstance(about, dict) or type(about.get("bytes")) is not int:
        return None
    if "block_sha256" in about:
        blocks = about["block_sha256"]
        fine = about.get("block_bytes") == BLOCK and isinstance(blocks, list) and all(map(_is_hash, blocks))
        return Entry(about["bytes"], None, tuple(blocks)) if fine else None
    return Entry(about["bytes"], about["sha256"]) if _is_hash(about.get("sha256")) else None


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None
