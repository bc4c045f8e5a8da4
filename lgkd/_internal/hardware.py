"""What the machine lets a process have: cores, memory, disk. No torch."""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

_CGROUP = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """In bytes."""

    total: int
    free: int
    """What can be had without swapping."""


def cores() -> int:
    """Cores that this process may use: those that it is bound to, and no more than a container grants."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _words(_CGROUP / "cpu.max")
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return max(1, min(bound, round(int(words[0]) / int(words[1]))))
    return max(1, bound)


def memory() -> Memory:
    """Memory of the machine, or of the container where that is less."""
    whole = psutil.virtual_memory()
    total, free = whole.total, whole.available
    limit, used = _words(_CGROUP / "memory.max"), _words(_CGROUP / "memory.current")
    if len(limit) == len(used) == 1 and limit[0].isdecimal() and used[0].isdecimal():
        total, free = min(total, int(limit[0])), min(free, max(0, int(limit[0]) - int(used[0])))
    return Memory(total, free)


def resident() -> tuple[int, int]:
    """Bytes that the process holds in memory: now, and at most so far."""
    now = psutil.Process().memory_info().rss
    try:
        # Not of getrusage, which counts what the process was before it became this program, nor of psutil, which has no
        # peak on Linux.
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return now, max(now, int(line.split()[1]) << 10)
    except (OSError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return now, max(now, peak if sys.platform == "darwin" else peak << 10)


def standing(path: Path) -> Path:
    """A folder that may not be there yet, or the nearest one above it that is."""
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.is_dir()), Path(path.anchor))


def free_space(path: Path) -> int | None:
    """Bytes that can still be written below a folder, which need not be there yet; None where nobody knows."""
    try:
        return shutil.disk_usage(standing(path)).free
    except OSError:
        return None


def may_write(path: Path) -> bool:
    """Whether a folder can be made or written into. Nothing is written to find out."""
    above = path.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
