"""Temporary files and folders, and those that killed processes left: what nobody holds a lock on.

Process numbers say nothing of that: those of two containers that share a folder are equal, and they come again.
"""

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_DAY = 24 * 3600.0


def lock(handle: int) -> bool | None:
    """Lock an open temporary file or folder itself until it is closed, by which process end whatsoever.

    Not by `lgkd._internal.locks`: a lock file beside each temporary one would be left behind just as that is.

    Returns:
        True where it is locked now; False where another process holds it; None where there are no such locks: on
        Windows, and on many network file systems.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_leftover(path: Path) -> None:
    """Remove a temporary file or folder that nobody writes into any more; nothing where that cannot be.

    Where there are no locks it is one after a day.
    """
    handle = free = None
    try:
        age = time.time() - path.lstat().st_mtime
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            free = lock(handle)
        if free or (free is None and age > _DAY):
            # Still locked, so that its maker cannot begin with it meanwhile.
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        if handle is not None:
            os.close(handle)


class Scratch:
    """A new folder beside a place, with a hidden name of its own, locked while it is written into.

    It is removed in the end, unless it was given another name. What killed processes left of the same place goes first.

    Args:
        place: what it will become; need not be there.

    Attributes:
        path: the folder.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, place: Path) -> None:
        remove_scratch_of(place)
        while True:
            self.path = place.with_name(f".{place.name}-{secrets.token_hex(8)}")
            self.path.mkdir(parents=True)
            self._handle: int | None = None
            with suppress(OSError):
                self._handle = os.open(self.path, os.O_RDONLY)
            if self._handle is None or (lock(self._handle) is not False and self.path.exists()):
                return
            os.close(self._handle)  # another process took it for a leftover before it was locked

    def close(self) -> None:
        """Remove the folder, if it is still there under its name, and let go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_scratch_of(place: Path) -> None:
    """Remove the folders that killed processes left of making a place."""
    ours = re.compile(rf"\.{re.escape(place.name)}-[0-9a-f]{{16}}")
    with suppress(OSError):
        for other in place.parent.iterdir():
            if ours.fullmatch(other.name):
                remove_leftover(other)
