"""Lock files between processes; the system unlocks them when their holder ends, even by a crash."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

LOCK = ".lgkd.lock"
"""Name of a folder's lock file: present while the folder is locked, and after its holder was killed."""

# The next write there fails by itself, with its own message.
_NOTHING_CAN_BE_WRITTEN = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.ENOENT, errno.ENOTDIR}


class LockedError(Exception):
    """Raised when another process holds the lock."""


@contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, and remove it at the end. Forked processes do not inherit the lock.

    A file system that refuses it (many network file systems have no locks) must not refuse a run: this warns once and
    locks nothing.

    Args:
        file: created if it is not there; its folder exists.
        wait: block until the other process releases it.

    Raises:
        LockedError: another process holds it, and `wait` is False.
    """
    from filelock import FileLock, Timeout  # imports asyncio

    file = file.absolute()
    lock = FileLock(file, timeout=-1 if wait else 0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) not in _NOTHING_CAN_BE_WRITTEN:
            _warn_of_refusal()
            with suppress(OSError):
                file.unlink()
    try:
        yield
    finally:
        if lock.is_locked:
            # Removed while it is held: a waiting process finds that it is gone, and creates a new one.
            with suppress(OSError):
                file.unlink()
            lock.release()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for a folder; do nothing where the folder does not exist."""
    with locked(folder / LOCK, wait=True) if folder.is_dir() else nullcontext():
        yield


def remove_stale_lock(folder: Path) -> None:
    """Remove the lock file that a killed process left in a folder where nothing is written any more."""
    if (folder / LOCK).exists():
        with suppress(LockedError), locked(folder / LOCK):
            pass


@cache
def _warn_of_refusal() -> None:
    """Warn, once in a process."""
    warnings.warn(
        "this file system has no locks, so two processes that write to one folder are not kept apart; start one at a "
        "time",
        stacklevel=2,
    )
