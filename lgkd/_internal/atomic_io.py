"""Write files atomically, readable under the umask."""

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from lgkd._internal.leftovers import lock, remove_leftover

_PASSING = re.compile(r"\.(.+)\.\d+\.[0-9a-f]{8}\.tmp", re.DOTALL)


def write_atomic(path: Path, data: bytes) -> None:
    """Write under another name, flush to the disk, rename: a reader sees the old file or the new one.

    Temporary files of killed processes for the same file are removed.

    Raises:
        OSError: it cannot be written; the error names the file, as Python's does only where a file cannot be opened.
    """
    passing = None
    try:
        for other in path.parent.iterdir():
            if is_leftover_of(other.name, path.name):
                remove_leftover(other)
        handle, passing = _begin(path)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if os.name == "posix":  # while it is still locked; other systems cannot rename open files
                passing.replace(path)
        if os.name != "posix":
            passing.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        if passing is not None:
            passing.unlink(missing_ok=True)
    flush_folder(path.parent)


def _begin(path: Path) -> tuple[int, Path]:
    """Create a locked file beside a path."""
    while True:
        passing = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        # os.open applies the umask to 0o666; tempfile would create a file that only its owner can read.
        handle = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # Another process may have removed it as a leftover before it was locked.
        if lock(handle) is not False and passing.exists():
            return handle, passing
        os.close(handle)


def is_leftover_of(name: str, file: str) -> bool:
    """Return true if `name` is that of a temporary file from which `write_atomic` makes `file`."""
    found = _PASSING.fullmatch(name)
    return found is not None and found[1] == file


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically; refuse values that JSON cannot express (NaN)."""
    try:
        data = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the name of a folder may be bytes that are not text
        data = json.dumps(value, indent=2, allow_nan=False).encode()
    write_atomic(path, data + b"\n")


def flush_folder(folder: Path) -> None:
    """Flush a folder, which makes a rename in it durable; systems without that call need none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Compute the SHA-256 of a value's JSON with sorted keys, in hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
