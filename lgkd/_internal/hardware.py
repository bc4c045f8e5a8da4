"""Determine the resources of a process: cores, memory, disk. No torch."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


class Memory(NamedTuple):
    """Hold amounts of memory in bytes."""

    total: int
    free: int
    """Memory available without swapping."""


def cores() -> int:
    """Return the cores that this process may use: its affinity, limited by the container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _words(_CGROUP / "cpu.max")
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return max(1, min(bound, round(int(words[0]) / int(words[1]))))
    return max(1, bound)


def physical_cores() -> int:
    """Return the physical cores among those of `cores`: two threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, min(cores(), psutil.cpu_count(logical=False) or cores()))
    allowed = os.sched_getaffinity(0)
    # Where Linux does not list the threads of a core, each counts as a core.
    siblings = {cpu: _words(_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list") or [str(cpu)] for cpu in allowed}
    return max(1, min(cores(), len({words[0] for words in siblings.values()})))


def side_by_side() -> int:
    """Return the number of single-threaded processes to run at a time: the physical cores, or OMP_NUM_THREADS if less.

    The variable limits the cores of a command, whether it divides them among threads or among processes.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(physical_cores(), int(limit)) if limit.isdecimal() and int(limit) else physical_cores()


def processor_seconds() -> float:
    """Return the processor time of this process, all its threads, and its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def process_start() -> float:
    """Return the `time.monotonic()` at which this process was started."""
    try:
        # psutil adds the time of the boot, which Linux tells in whole seconds. The 20 fields after the command's name,
        # which may contain anything but a last bracket, begin with the third; the start is the 22nd, in ticks.
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        started: float = psutil.Process().create_time()
        age = time.time() - started
    return time.monotonic() - age


def memory() -> Memory:
    """Return the memory of the machine, or of the container where that is less."""
    whole = psutil.virtual_memory()
    total, free = whole.total, whole.available
    limit, used = _words(_CGROUP / "memory.max"), _words(_CGROUP / "memory.current")
    if len(limit) == len(used) == 1 and limit[0].isdecimal() and used[0].isdecimal():
        total, free = min(total, int(limit[0])), min(free, max(0, int(limit[0]) - int(used[0])))
    return Memory(total, free)


def resident() -> tuple[int, int]:
    """Return the resident memory of the process in bytes: now, and the peak so far."""
    now = psutil.Process().memory_info().rss
    try:
        # Not from getrusage, which counts the process before it became this program, nor from psutil, which has no
        # peak on Linux.
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return now, max(now, int(line.split()[1]) << 10)
    except (OSError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return now, max(now, peak if sys.platform == "darwin" else peak << 10)


def standing(path: Path) -> Path:
    """Return a folder that may not exist yet, or the nearest existing one above it."""
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.is_dir()), Path(path.anchor))


def free_space(path: Path) -> int | None:
    """Return the free bytes of a folder, which need not exist yet; None where unknown."""
    try:
        return shutil.disk_usage(standing(path)).free
    except OSError:
        return None


def may_write(path: Path) -> bool:
    """Return true if a folder can be created or written into. Nothing is written to test it."""
    above = path.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
