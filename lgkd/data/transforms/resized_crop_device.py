"""Crop and resize a batch on a device: `resized_crop.resample` in few launches, to the same levels.

Both axes are computed together, as twice as many rows. Weights stay whole multiples of 2^-15 until a matrix product
scales its sum, so that its result is exact, and the images' channels are beside their columns in between, so that each
pass is one product.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import sent
from lgkd.data.transforms.parcel import Parcel
from lgkd.data.transforms.resized_crop import REACH, WEIGHT_UNITS, Boxes, Interpolation, reflected


class Resampling:
    """Cut each image's box and resize it, see `resized_crop.resample`.

    Args:
        parcel: takes the parameters; it is to be sent before the call.
        shape: of the stored images, (B, C, S, T).
        boxes: (B, 4).
        size: (height, width) of the result.
        mirrored: (B,) True for images mirrored left to right.
        valid: (B, 2) heights and widths of the images in the stored canvas.
        reflect: fill what a box has outside its image by reflection instead of black.
    """

    def __init__(
        self,
        parcel: Parcel,
        shape: Sequence[int],
        boxes: Boxes,
        size: tuple[int, int],
        interpolation: Interpolation,
        mirrored: NDArray[np.bool_],
        valid: NDArray[np.int64],
        *,
        reflect: bool,
    ) -> None:
        count, _, rows, columns = shape
        height, width = size
        reach = REACH[interpolation]
        self._interpolation: Interpolation = interpolation
        self._parcel, self._size, self._reflect = parcel, size, reflect
        self._extent, self._out = max(rows, columns), max(size)
        self._taps = max(math.ceil(2.0 * reach * max(1.0, a / b)) for a, b in ((rows, height), (columns, width)))
        start, length = np.concatenate([boxes[:, 0], boxes[:, 1]]), np.concatenate([boxes[:, 2], boxes[:, 3]])
        limit = np.concatenate([valid[:, 0], valid[:, 1]])
        out = np.repeat(np.asarray([height, width], np.float32), count)
        backwards = np.concatenate([np.zeros(count, np.bool_), mirrored])
        extent = length.astype(np.float32)
        step = extent / out
        stretch = np.maximum(step, np.float32(1.0))
        facts = [
            np.where(backwards, -1.0, 1.0),
            np.where(backwards, out - 0.5, 0.5),
            step,
            np.float32(reach) * stretch - np.float32(0.5),
            stretch,
            extent,
        ]
        self._facts = parcel.add(np.stack(facts).astype(np.float32))
        self._whole = parcel.add(np.stack([start, limit]).astype(np.int64))
        self._outside = bool(start.min() < 0 or (start + length > limit).any())

    def __call__(self, pixels: Tensor) -> Tensor:
        """Resample: uint8 (B, C, S, T) to uint8 (B, C, height, width)."""
        count, channels, rows, columns = pixels.shape
        height, width = self._size
        matrix, half = self._matrix(pixels.device), _constants(self._taps, self._out, pixels.device).half
        down, across = matrix[:count, :rows, :height], matrix[count:, :columns, :width]
        values = torch.empty(count, rows, channels, columns, device=pixels.device)
        values.copy_(pixels.permute(0, 2, 1, 3))
        with torch.autocast(pixels.device.type, enabled=False):
            lines = torch.baddbmm(half, values.view(count, rows * channels, columns), across, alpha=1 / WEIGHT_UNITS)
            lines = lines.floor_().clamp_(0.0, 255.0).view(count, rows, channels * width)
            levels = torch.baddbmm(half, down.mT, lines, alpha=1 / WEIGHT_UNITS).clamp_(0.0, 255.0)
        result = torch.empty(count, channels, height, width, dtype=torch.uint8, device=pixels.device)
        return result.copy_(levels.view(count, height, channels, width).permute(0, 2, 1, 3))

    def _matrix(self, device: torch.device) -> Tensor:
        """Compute the weights of stored pixels, in units of 2^-15: float32 (2 B, at least extent, out)."""
        known = _constants(self._taps, self._out, device)
        sign, offset, step, reach, stretch, size = self._parcel.get(self._facts)[..., None, None]
        begin, limit = self._parcel.get(self._whole)[..., None, None]
        centre = torch.addcmul(offset, sign, known.place).mul_(step)
        tap = (centre - reach).floor_().clamp_(min=0.0) + known.tap
        distance = (tap - centre).abs_().div_(stretch)
        if self._interpolation == "bicubic":
            # The cubic's two pieces side by side, the outer one first, as powers of what remains to their ends.
            rest = (known.ends - distance).clamp_(min=0.0)
            pieces = (rest * rest).mul_(torch.addcmul(known.added, known.slope, rest))
            weight = pieces[0] + pieces[1]
        else:
            weight = (1.0 - distance).clamp_(min=0.0)
        running = weight.mul_(tap < size).cumsum(1)
        running = running.mul_(torch.div(known.units, running[:, -1:])).round_()
        running[:, 1:].sub_(running[:, :-1].clone())
        column = tap.long().add_(begin)
        if self._outside:
            if self._reflect:
                column = reflected(column, limit)
            else:
                running.mul_((column >= 0).logical_and_(column < limit))
        if self._outside or self._size[0] != self._size[1]:  # the shorter axis has rows that nothing reads
            column = column.clamp_(0, self._extent - 1)
        # Taps behind the last stored pixel have no weight; they have columns of their own.
        matrix = torch.zeros(len(column), self._extent + self._taps, self._out, device=device)
        return matrix.scatter_add_(1, column, running)


class _Constants:
    """Hold what depends on no image.

    Args:
        taps: number of taps.
        out: number of output pixels.
    """

    def __init__(self, taps: int, out: int, device: torch.device) -> None:
        def constant(values: object, *shape: int) -> Tensor:
            return sent(np.asarray(values, dtype=np.float32).reshape(shape), device)

        self.place = constant(np.arange(out), 1, 1, out)
        self.tap = constant(np.arange(taps) + 0.5, 1, taps, 1)
        self.half = constant(0.5, 1, 1, 1)
        self.units = constant(WEIGHT_UNITS, 1, 1, 1)
        # (2 - d)^2 ((2 - d) - 1) / 2 and (1 - d)^2 (1 - 2 (1 - d)).
        self.ends = constant([2.0, 1.0], 2, 1, 1, 1)
        self.slope = constant([0.5, -2.0], 2, 1, 1, 1)
        self.added = constant([-0.5, 1.0], 2, 1, 1, 1)


@lru_cache(maxsize=32)
def _constants(taps: int, out: int, device: torch.device) -> _Constants:
    return _Constants(taps, out, device)
