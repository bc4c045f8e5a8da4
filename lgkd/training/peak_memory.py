"""Measure the peak memory of a training."""

import ctypes
import sys
from pathlib import Path

import torch

from lgkd._internal.hardware import resident


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
