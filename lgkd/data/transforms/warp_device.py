"""Warp images on a device: shears, translations and rotations of all layers, to the levels of `affine`.

Each output pixel reads a square of neighbours. Where it reads, and with which weights, depends on the parameters alone:
this is computed once for all layers of a batch; a layer gathers, weighs and sums. A shear or a translation is a
rotation by nothing whose positions are moved by row or by column, by shifts that the host computed in double precision.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.affine import HAIR, Fill
from lgkd.data.transforms.device import sent
from lgkd.data.transforms.parcel import Parcel
from lgkd.data.transforms.resized_crop import Interpolation

MOVES = ("shear_x", "translate_x", "shear_y", "translate_y", "rotate")


class Warp:
    """Hold the warps of some images.

    Args:
        parcel: takes the parameters; it is to be sent before `prepare`.
        names: for each image its operation, one of `MOVES`.
        strengths: (n,) of each: a slope, a share of the side or degrees.
        size: (height, width).
        fill: levels of what comes from outside.
    """

    def __init__(
        self,
        parcel: Parcel,
        names: Sequence[str],
        strengths: NDArray[np.float64],
        size: tuple[int, int],
        fill: Fill,
        interpolation: Interpolation,
    ) -> None:
        height, width = size
        self._parcel, self._size, self._fill, self._interpolation = parcel, size, fill, interpolation
        self.count = len(names)
        kinds = np.asarray(names)
        turned = kinds == "rotate"
        angle = np.where(turned, -np.radians(strengths), 0.0)
        # Rounded as in `affine.rotate`.
        cosine, sine = np.cos(angle).round(15), np.sin(angle).round(15)
        middle_x, middle_y = width / 2.0, height / 2.0
        right = np.where(turned, middle_x - cosine * middle_x - sine * middle_y, 0.0)
        below = np.where(turned, middle_y + sine * middle_x - cosine * middle_y, 0.0)
        # Of x and of y, (2, n) each: factor of the column's and of the row's position, and what is added.
        lines = np.stack([[cosine, -sine], [sine, cosine], [right, below]])
        self._lines = parcel.add(lines.astype(np.float32))
        by_row = _shifts(kinds, strengths, ("shear_x", "translate_x"), height, width)
        by_column = _shifts(kinds, strengths, ("shear_y", "translate_y"), width, height)
        self._by_row, self._by_column = parcel.add(by_row), parcel.add(by_column)

    def prepare(self, device: torch.device) -> None:
        """Compute where each output pixel reads, and with which weights."""
        height, width = self._size
        known = _constants(self._size, self._fill, self._interpolation, device)
        along_x, along_y, added = self._parcel.get(self._lines)[..., None, None]
        # The centre, the whole place and the rest; of x and of y; (n, H, W).
        places = torch.empty(3, 2, self.count, height, width, device=device)
        torch.add(torch.addcmul(along_y * known.y, along_x, known.x), added, out=places[0])
        torch.sub(places[0], 0.5, out=places[2])
        torch.floor(places[2], out=places[1])
        places[2].sub_(places[1])
        places[:, 0].add_(self._parcel.get(self._by_row)[..., None])
        places[:, 1].add_(self._parcel.get(self._by_column)[:, :, None])

        within = places[0].clamp(known.zero, known.limit) == places[0]
        inside = (within[0] & within[1])[:, None]
        self._inside = inside.float()
        # Added to what was read: the hair of `affine`; outside also the colour, and what was read is multiplied by 0.
        self._added = torch.where(inside, known.hair, known.colour)

        near = (places[1] + known.taps).clamp_(known.zero, known.last).long()
        row, column = near[:, 1].transpose(0, 1), near[:, 0].transpose(0, 1)
        taps = len(known.taps)
        self._index = torch.empty(self.count, taps, taps, height, width, dtype=torch.int64, device=device)
        torch.add(column[:, None], row[:, :, None], alpha=width, out=self._index)
        across, down = self._weights(places[2], known).unbind(1)
        self._across, self._down = across.transpose(0, 1)[:, None, None], down.transpose(0, 1)[:, None]

    def apply(self, images: Tensor, chosen: slice, out: Tensor) -> None:
        """Warp some of the images: uint8 (n, 3, H, W) to levels before they are cut, float32 of that shape.

        Args:
            images: contiguous.
            chosen: their places among those that were given.
            out: written.
        """
        index = self._index[chosen]
        count, taps, _, height, width = index.shape
        read = images.flatten(2).gather(2, index.view(count, 1, -1).expand(-1, 3, -1))
        lines = (read.view(count, 3, taps, taps, height, width) * self._across[chosen]).sum(3)
        values = (lines * self._down[chosen]).sum(2)
        torch.addcmul(self._added[chosen], values, self._inside[chosen], out=out)

    def _weights(self, rest: Tensor, known: "_Constants") -> Tensor:
        """Compute `affine.tap_weights` for x and y, from (2, n, H, W): (taps, 2, n, H, W)."""
        weights = torch.empty(len(known.taps), *rest.shape, device=rest.device)
        if self._interpolation == "bilinear":
            torch.sub(1.0, rest, out=weights[0])
            weights[1].copy_(rest)
            return weights
        # ((a - d) d + b) d and c - (a - d) d d, with a = 2, b = -1, c = 1 and a = 1, b = 1, c = 0.
        pairs = weights.view(2, 2, *rest.shape)
        rising = (known.ends - rest).mul_(rest)
        torch.mul(rising + known.first, rest, out=pairs[:, 0])
        torch.sub(known.second, rising.mul_(rest), out=pairs[:, 1])
        return weights


def _shifts(
    kinds: NDArray[np.str_], strengths: NDArray[np.float64], names: tuple[str, str], lines: int, side: int
) -> NDArray[np.float32]:
    """Compute how far each line reads along itself: cells of the centre, whole pixels and the rest, (3, n, lines)."""
    slope, share = (np.where(kinds == name, strengths, 0.0) for name in names)
    shift = slope[:, None] * (np.arange(lines) + 0.5) + (share * side)[:, None]
    shift = np.where(np.isin(kinds, names)[:, None], shift, 0.0)
    whole = np.floor(shift)
    cell = -np.ceil(-0.5 - shift)
    return np.stack([cell, whole, shift - whole]).astype(np.float32)


class _Constants:
    """Hold what depends on no image."""

    def __init__(self, size: tuple[int, int], fill: Fill, interpolation: Interpolation, device: torch.device) -> None:
        def constant(values: object, *shape: int) -> Tensor:
            return sent(np.asarray(values, dtype=np.float32).reshape(shape), device)

        height, width = size
        self.x, self.y = constant(np.arange(width) + 0.5, 1, 1, width), constant(np.arange(height) + 0.5, 1, height, 1)
        self.zero, self.last = constant([0, 0], 2, 1, 1, 1), constant([width - 1, height - 1], 2, 1, 1, 1)
        # The largest number below the side: a centre at the side itself is outside.
        self.limit = constant(np.nextafter(np.asarray([width, height], dtype=np.float32), np.float32(0.0)), 2, 1, 1, 1)
        self.hair = constant(HAIR, 1, 1, 1, 1)
        self.colour = constant(np.asarray(fill, dtype=np.float32) + np.float32(HAIR), 1, 3, 1, 1)
        taps = [-1, 0, 1, 2] if interpolation == "bicubic" else [0, 1]
        self.taps = constant(taps, len(taps), 1, 1, 1, 1)
        self.ends, self.first, self.second = (
            constant(pair, 2, 1, 1, 1, 1) for pair in ([2.0, 1.0], [-1.0, 1.0], [1.0, 0.0])
        )


@lru_cache(maxsize=32)
def _constants(size: tuple[int, int], fill: Fill, interpolation: Interpolation, device: torch.device) -> _Constants:
    return _Constants(size, fill, interpolation, device)
