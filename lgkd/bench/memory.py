"""How much memory a training takes at its peak."""

import ctypes
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Counts from its making on.

    On a GPU: the most bytes that torch had allocated there. On a CPU: by how much the process has grown
    at its largest, which holds the images that are read into memory, too.

    Args:
        device: whose memory.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self.kind = "allocated on the GPU" if self._device.type == "cuda" else "growth of the process"
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _forget_peak()
            self._base = resident()[0]

    def read(self) -> int:
        """Bytes, so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, resident()[1] - self._base)


def resident() -> tuple[int, int]:
    """Bytes that the process holds in memory: now, and at most so far. Where only the latter is known, twice that."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {key: int(value.split()[0]) << 10 for key, _, value in (line.partition(":") for line in lines)
                 if key in ("VmRSS", "VmHWM")}  # fmt: skip
        return found["VmRSS"], found["VmHWM"]
    except (OSError, KeyError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak, peak) if sys.platform == "darwin" else (peak << 10, peak << 10)


def _forget_peak() -> None:
    """Give back what was freed before, and begin a new peak, where Linux lets a process do so."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
