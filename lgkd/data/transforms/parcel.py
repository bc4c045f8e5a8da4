"""Send all parameters of a batch to the device in one copy."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import is_host

_ALIGNMENT = 16


class Parcel:
    """Collect arrays on the host, send them in one upload, and read them on the device.

    An upload costs a GPU some microseconds whatever its size. On a GPU the copy is made from pinned memory, so that
    nothing waits for it.

    Args:
        device: of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: list[tuple[int, NDArray[Any]]] = []
        self._bytes = 0
        self._sent: Tensor | None = None

    def add(self, array: NDArray[Any]) -> int:
        """Add an array; return the number under which `get` reads it once it is sent."""
        self._arrays.append((self._bytes, np.ascontiguousarray(array)))
        self._bytes += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return len(self._arrays) - 1

    def send(self) -> None:
        """Send what was added."""
        host = torch.empty(self._bytes, dtype=torch.uint8, pin_memory=not is_host(self._device))
        into = host.numpy()
        for start, array in self._arrays:
            into[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._sent = host.to(self._device, non_blocking=True)

    def get(self, number: int) -> Tensor:
        """Return an array as a tensor on the device, of its own type and shape; a view of the one copy."""
        assert self._sent is not None
        start, array = self._arrays[number]
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return self._sent[start : start + array.nbytes].view(dtype).view(array.shape)
