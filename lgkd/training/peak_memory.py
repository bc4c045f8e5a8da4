"""Measure the peak memory of a training."""

import ctypes
import sys
from pathlib import Path

import torch

from lgkd._internal.hardware import resident


class PeakMemory:
    """Measure the peak memory since its creation.

    On a GPU: the peak bytes that torch allocated. On a CPU: the peak growth of the process, which includes images read
    into memory.

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
        """Return the peak bytes so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, resident()[1] - self._base)


def _forget_peak() -> None:
    """Release freed memory, and reset the peak, if Linux permits it."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
