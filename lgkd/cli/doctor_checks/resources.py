"""Check memory and disk."""

from collections.abc import Iterator
from pathlib import Path

from lgkd._internal.hardware import free_space, may_write, memory
from lgkd._internal.paths import home
from lgkd.cli.doctor_checks.finding import Finding, size

_LITTLE_MEMORY, _LITTLE_DISK, _NO_DISK = 2 << 30, 2 << 30, 100 << 20


def look_at_memory() -> Iterator[Finding]:
    """Check the main memory."""
    found = memory()
    shown = f"{size(found.free)} of {size(found.total)} free"
    if found.free < _LITTLE_MEMORY:
        yield Finding("memory", "warning", shown, "close other programs, or use small images and a small --batch-size")
    else:
        yield Finding("memory", "ok", shown)


def look_at_disk() -> Iterator[Finding]:
    """Check the folders of runs, teachers, data and decoded images."""
    store = home()
    for what, place, other in (
        ("runs", Path("runs"), "choose another folder with --out"),
        ("store", store, "choose another folder with LGKD_HOME"),
        ("cache", store / "cache", "choose another folder with LGKD_HOME"),
    ):
        free = free_space(place)
        shown = f"{place.absolute()}, {size(free)} free" if free is not None else f"{place.absolute()}"
        if not may_write(place):
            # Without a cache, images are decoded into memory; a run or a teacher has to be written.
            state = "warning" if what == "cache" else "problem"
            yield Finding(what, "warning" if state == "warning" else "problem", f"{shown}, is not writable", other)
        elif free is not None and free < _NO_DISK:
            yield Finding(what, "problem", shown, f"make room, or {other}")
        elif free is not None and free < _LITTLE_DISK:
            yield Finding(
                what, "warning", shown, f"make room, or {other}: decoded images of a large data set need more"
            )
        else:
            yield Finding(what, "ok", shown)
