"""Create temporary files and folders, and remove those of killed processes: unlocked ones.

Process numbers do not identify them: those of two containers that share a folder are equal, and they are reused.
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
    """Lock an open temporary file or folder itself until it is closed, even by a crash of the process.

    Not by `lgkd._internal.locks`: a lock file beside each temporary one would be left behind just like it.

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
    """Remove a temporary file or folder that no process writes into any more; do nothing where that is impossible.

    Where there are no locks it counts as one after a day.
    """
    handle = free = None
    try:
        age = time.time() - path.lstat().st_mtime
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            free = lock(handle)
        if free or (free is None and age > _DAY):
            # Still locked, so that its creator cannot start using it meanwhile.
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        if handle is not None:
            os.close(handle)


class Scratch:
    """Create a temporary folder beside a path, with a unique hidden name, locked while it is written into.

    It is removed in the end, unless it was renamed. Those of killed processes for the same path are removed first.

    Args:
        place: the final path; need not exist.

    Attributes:
        path: the folder.

    Raises:
        OSError: it cannot be created.
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
            os.close(self._handle)  # another process removed it as a leftover before it was locked

    def close(self) -> None:
        """Remove the folder, if it still has its name, and unlock it."""
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
    """Remove the temporary folders that killed processes left for a path."""
    ours = re.compile(rf"\.{re.escape(place.name)}-[0-9a-f]{{16}}")
    with suppress(OSError):
        for other in place.parent.iterdir():
            if ours.fullmatch(other.name):
                remove_leftover(other)
