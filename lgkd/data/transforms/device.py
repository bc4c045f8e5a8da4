"""Send parameters to the device without waiting for it, and cut work into portions that suit its memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Numbers worked on at a time: bounds the memory of a batch, and on a CPU keeps the work in the cache.
# Resampling 512 images of 32 pixels takes half the time that way.
_PORTION_CPU = 2**18
_PORTION_DEVICE = 2**27


def is_host(device: torch.device) -> bool:
    """Return True for a device that shares the host's memory or cannot pin it."""
    return device.type in ("cpu", "mps")


def sent(array: NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Send `array` to `device`, as `dtype`.

    On a GPU it goes through pinned memory: a copy from pageable memory can wait for the kernels
    queued before it, which is the synchronisation that drawing on the host is meant to avoid.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if dtype is not None:
        tensor = tensor.to(dtype)
    if not is_host(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def room(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate an empty tensor for a whole batch."""
    if device.type == "cpu" and dtype == torch.float32:
        # NumPy asks the system for large pages: touching fresh memory then takes half as long.
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, dtype=dtype, device=device)


def cut(values: Tensor) -> Tensor:
    """Cut numbers below 2^15, without rounding, to whole levels, and clamp them to 0 and 255: uint8."""
    # There is no vector instruction straight to uint8; by way of int16 it takes less than half the time.
    return values.to(torch.int16).clamp_(0, 255).to(torch.uint8)


def put_back(images: Tensor, places: NDArray[np.int64], changed: Tensor) -> None:
    """Assign images[places] = changed, in place, on the CPU; uint8 (B, ...), (n,), (n, ...)."""
    # NumPy copies whole images where torch goes byte by byte, and takes a tenth of the time.
    images.numpy()[places] = changed.numpy()


def portions(count: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of range(count), each of as many items of `elements` numbers as suit the device."""
    limit = _PORTION_CPU if device.type == "cpu" else _PORTION_DEVICE
    step = max(1, limit // max(1, elements))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


_BYTES_OF_A_PIXEL = 256
"""Memory that drawing takes for each pixel of an image: a third of the images is warped by a usual policy."""
_BYTES_OF_A_STORED_PIXEL = 24


def images_at_once(stored: Sequence[int], size: Sequence[int], device: torch.device) -> int:
    """Return the number of images that a tenth of a device's free memory suffices to draw, at least 1.

    Args:
        stored, size: (height, width) of the stored images and of those that are drawn.
    """
    one = _BYTES_OF_A_PIXEL * size[0] * size[1] + _BYTES_OF_A_STORED_PIXEL * stored[0] * stored[1]
    return max(1, _free_memory(device) // 10 // one)


def _free_memory(device: torch.device) -> int:
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free)
