"""Apply random erasing (Zhong et al., 2020): a rectangle of noise, as timm's "pixel" mode with one box."""

import math
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import portions, sent
from lgkd.data.transforms.parcel import Parcel

_Whole = NDArray[np.int64]

_LARGE = 2**11  # numbers of noise from which on a CPU works faster image by image

_SHARES = 2**16
_FACTOR = 0x45D9F3B
_TRIES = 10
ERASE_DRAWS = 2 * _TRIES + 3

_AREA = (0.02, 1.0 / 3.0)
_LOG_RATIO = (math.log(0.3), math.log(1.0 / 0.3))


def erase_boxes(
    draws: NDArray[np.float64], size: tuple[int, int], probability: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the images that are erased, and their boxes.

    Args:
        draws: (B, ERASE_DRAWS) uniform numbers in [0, 1).
        size: (height, width) of the images.

    Returns:
        places (n,) of the images that are erased, and their boxes (n, 4): top, left, height, width.
        A box covers 2 % to a third of the image, its height / width is log-uniform in [0.3, 1 / 0.3], and it is
        smaller than the image; the first of ten tries that fits counts, and if none does nothing is erased.
    """
    height, width = size
    tries = draws[:, 1 : 1 + 2 * _TRIES].reshape(-1, _TRIES, 2)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * tries[:, :, 0]) * (height * width)
    ratio = np.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * tries[:, :, 1])
    box_height = np.rint(np.sqrt(area * ratio))
    box_width = np.rint(np.sqrt(area / ratio))
    fits = (box_height < height) & (box_width < width)
    places = np.flatnonzero((draws[:, 0] < probability) & fits.any(axis=1))
    first = fits.argmax(axis=1)[places]
    box_height, box_width = box_height[places, first], box_width[places, first]
    top = np.floor(draws[places, -2] * (height - box_height + 1))
    left = np.floor(draws[places, -1] * (width - box_width + 1))
    return places, np.stack([top, left, box_height, box_width], axis=1).astype(np.int64)


def _scrambled(word: Tensor) -> Tensor:
    """Mix the bits of 32-bit words, kept in int32: products wrap, and a shift brings copies of the sign in."""
    for _ in range(2):
        word = (word >> 16).bitwise_and_(0xFFFF).bitwise_xor_(word).mul_(_FACTOR)
    return (word >> 16).bitwise_and_(0xFFFF).bitwise_xor_(word)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Compute the standard normal's quantiles in the middles of 65,536 equal shares, float32."""
    middles = (torch.arange(_SHARES, dtype=torch.float64) + 0.5) * (2 / _SHARES) - 1
    return sent(middles.erfinv_().mul_(math.sqrt(2.0)).float().numpy(), device)


def noise(keys: Tensor, counters: Tensor) -> Tensor:
    """Compute standard normal numbers as a pure function of (key, counter), both int64 below 2^32: float32.

    Made on the device, because sending as much noise from the host would cost more than all the rest. Looked up, not
    computed: the last bits of some libraries' inverse error function depend on the rest of the vector, so
    that a sample's noise would depend on its batch. Values are the quantiles of 65,536 equal shares, within +-4.4.
    """
    word = _scrambled(counters.to(torch.int32) ^ keys.to(torch.int32))
    place = (word >> 16).bitwise_and_(_SHARES - 1)
    return _quantiles(word.device).index_select(0, place.view(-1)).view(word.shape)


def erase(images: Tensor, places: NDArray[np.int64], boxes: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    """Fill the boxes of normalised float images (B, C, H, W) with normal noise, in place.

    Args:
        images: contiguous.
        places, boxes: from `erase_boxes`.
        keys: (n,) 32-bit numbers, one for each erased image, that decide its noise.
    """
    areas = boxes[:, 2] * boxes[:, 3]
    channels = images.shape[1]
    largest = int(areas.max(initial=0)) * channels
    if images.device.type == "cpu" and largest > _LARGE:
        plane = torch.arange(channels, dtype=torch.int32)[:, None] * (images.shape[2] * images.shape[3])
        order = torch.arange(largest // channels, dtype=torch.int32)
        for place, (top, left, height, width), key in zip(places, boxes, keys, strict=True):
            drawn = noise(torch.tensor(int(key)), order[: height * width] + plane)
            images[place, :, top : top + height, left : left + width] = drawn.view(channels, height, width)
        return
    for part in portions(len(places), largest, images.device):
        _erase(images, places[part], boxes[part], keys[part], areas[part])


def _erase(images: Tensor, places: _Whole, boxes: _Whole, keys: _Whole, areas: _Whole) -> None:
    """Erase one portion of a batch, see `erase`."""
    total = int(areas.sum())
    channels, height, width = images.shape[1:]
    device = images.device
    # A row per fact of an erased image: where its box begins in the tensor, the box's width, the key, and
    # where its pixels begin in the list of all erased pixels.
    corners = (places * channels * height + boxes[:, 0]) * width + boxes[:, 1]
    facts = sent(np.stack([corners, boxes[:, 3], keys, np.cumsum(areas) - areas]), device)
    owner = torch.arange(len(places), device=device).repeat_interleave(sent(areas, device), output_size=total)
    corner, box_width, key, start = facts.index_select(1, owner).unbind(0)
    order = torch.arange(total, device=device) - start
    # Sixteen times faster than dividing integers, and exact for boxes of up to two million pixels: the half
    # keeps the quotient further from a whole number than its rounding.
    row = torch.floor((order + 0.5) / box_width).long()
    target = corner + order + row * (width - box_width)
    plane = torch.arange(channels, device=device)[:, None] * (height * width)
    images.view(-1).index_copy_(0, (target + plane).view(-1), noise(key, order + plane).view(-1))


class Erasing:
    """Fill boxes of images on a device with the noise of `erase`, in few launches.

    Args:
        parcel: takes the parameters; it is to be sent before the call.
        places, boxes, keys: as for `erase`; at least one.
        shape: (C, H, W) of the images.
    """

    def __init__(
        self, parcel: Parcel, places: _Whole, boxes: _Whole, keys: _Whole, shape: tuple[int, int, int]
    ) -> None:
        channels, height, width = shape
        top, left, rows, widths = boxes.T
        # By row of a box: its place in the tensor and its first number of noise, less its place in the list of all
        # erased pixels; and the key.
        row = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        place, top, left, wide, key = (np.repeat(one, rows) for one in (places, top, left, widths, keys))
        first = np.cumsum(wide) - wide
        target = (place * channels * height + top + row) * width + left
        self._parcel, self._plane, self._channels = parcel, height * width, channels
        self._total = int(wide.sum())
        self._rows = parcel.add(np.stack([target - first, row * wide - first, key, wide]).astype(np.int64))

    def __call__(self, images: Tensor) -> None:
        """Erase in normalised float images (B, C, H, W), contiguous, in place."""
        rows = self._parcel.get(self._rows)
        owner = torch.repeat_interleave(rows[3], output_size=self._total)
        facts = rows[:3].index_select(1, owner)
        # No smaller than a power of two, so that few are made.
        length = 1 << (self._total - 1).bit_length()
        ramp = _ramp(length, self._channels, self._plane, images.device)[:, : self._total]
        target, counter = facts[:2, None] + ramp
        # As `noise`, in 64 bits: a shift then brings in zeros. Its last exchange does not reach the bits that are used.
        word = counter ^ facts[2]
        word = (word >> 16).bitwise_xor_(word).mul_(_FACTOR).bitwise_and_(0xFFFFFFFF)
        word = (word >> 16).bitwise_xor_(word).mul_(_FACTOR)
        drawn = _quantiles(images.device).index_select(0, (word >> 16).bitwise_and_(_SHARES - 1).view(-1))
        images.view(-1).index_copy_(0, target.view(-1), drawn)


@lru_cache(maxsize=32)
def _ramp(length: int, channels: int, plane: int, device: torch.device) -> Tensor:
    """Compute 0, 1, ... and the same behind each earlier channel: int64 (channels, length)."""
    return sent(np.arange(length) + np.arange(channels)[:, None] * plane, device)
