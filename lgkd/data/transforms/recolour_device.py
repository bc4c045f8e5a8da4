"""Change colours on a device in few launches, to the levels of `color`.

Operations of a layer are of two kinds. Those whose output level depends on the input level alone are tables of 256
levels: most are computed by the host and sent with the other parameters, those of autocontrast are looked up in a table
of all tables, and those of equalize are computed. The others blend with a plain image: all in one pass.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import sent
from lgkd.data.transforms.parcel import Parcel

LOOKED_UP = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "brightness")
BLENDED = ("colour", "contrast", "sharpness")

_LUMINANCE = np.asarray([19595, 38470, 7471], dtype=np.float32) / np.float32(65536)
_SMOOTH = np.asarray([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32)


class Tables:
    """Hold the operations of some images that are tables.

    Args:
        parcel: takes the parameters; it is to be sent before the call.
        names: for each image its operation, in the order of `LOOKED_UP`.
        strengths: (n,).
    """

    def __init__(self, parcel: Parcel, names: Sequence[str], strengths: NDArray[np.float64]) -> None:
        self._parcel = parcel
        self._stretched, self._equalized = (names.count(name) for name in LOOKED_UP[:2])
        rows = [_table(name, np.float32(one)) for name, one in zip(names, strengths, strict=True)]
        self._tables = parcel.add(np.repeat(np.stack(rows)[:, None], 3, axis=1))

    def __call__(self, images: Tensor) -> None:
        """Change uint8 (n, 3, H, W), contiguous, in place."""
        tables, levels = self._parcel.get(self._tables), images.flatten(2).long()
        end = self._stretched + self._equalized
        if end:
            low, high = levels[:end].aminmax(dim=2, keepdim=True)
            if self._stretched:
                ends = torch.add(high[: self._stretched], low[: self._stretched], alpha=256).flatten()
                rows = tables[: self._stretched].view(-1, 256)
                torch.index_select(_autocontrasts(images.device), 0, ends, out=rows)
            if self._equalized:
                equalized = slice(self._stretched, end)
                tables[equalized].copy_(_equalize(levels[equalized], high[equalized]))
        torch.gather(tables, 2, levels, out=images.view(levels.shape))


def _table(name: str, strength: np.float32) -> NDArray[np.uint8]:
    """Compute a table on the host, with the arithmetic of `color`; of those that depend on the image, nothing."""
    levels = np.arange(256, dtype=np.float32)
    match name:
        case "invert":
            levels = 255 - levels
        case "posterize":
            step = np.exp2(np.maximum(np.float32(8) - strength, np.float32(0)))
            levels = np.floor(levels / step) * step
        case "solarize":
            levels = np.where(levels < strength, levels, 255 - levels)
        case "solarize_add":
            levels = np.where(levels < 128, levels + strength, levels)
        case "brightness":
            levels = levels * strength
    return np.clip(levels, 0, 255).astype(np.uint8)


def _equalize(levels: Tensor, high: Tensor) -> Tensor:
    """Compute tables that make levels equally frequent: int64 (n, 3, pixels) and (n, 3, 1) to (n, 3, 256)."""
    count, channels, pixels = levels.shape
    known = _constants(levels.device)
    # One place further: the running sum is then that of the levels below.
    histogram = torch.zeros(count, channels, 257, dtype=torch.int64, device=levels.device)
    histogram[:, :, 1:].scatter_add_(2, levels, known.one.expand_as(levels))
    below = histogram.cumsum(2)[:, :, :256]
    facts = _steps(pixels, levels.device).index_select(0, below.gather(2, high).flatten())
    step, half, spread, kept = facts.view(count, channels, 4).unsqueeze(-1).unbind(2)
    # An image with too few pixels for a step keeps its levels.
    table = torch.addcmul(half, below, spread).addcmul_(known.levels, kept)
    return table.div_(step, rounding_mode="floor").clamp_(max=255)


class Blends:
    """Hold the operations of some images that blend them with a plain one.

    Args:
        parcel: takes the parameters; it is to be sent before the call.
        names: for each image its operation, in the order of `BLENDED`.
        strengths: (n,), factors: 0 is the plain image, 1 the image itself.
    """

    def __init__(self, parcel: Parcel, names: Sequence[str], strengths: NDArray[np.float64]) -> None:
        self._parcel = parcel
        self._coloured, self._contrasted, self._sharpened = (names.count(name) for name in BLENDED)
        self._factors = parcel.add(strengths.astype(np.float32))

    def __call__(self, images: Tensor, out: Tensor) -> None:
        """Blend uint8 (n, 3, H, W) into levels before they are cut, float32 of that shape."""
        height, width = images.shape[2:]
        known, values = _constants(images.device), images.float()
        grey_end = self._coloured + self._contrasted
        plain = []
        with torch.autocast(images.device.type, enabled=False):
            if grey_end:
                pixels = values[:grey_end].flatten(2)
                grey = torch.baddbmm(known.half, known.luminance.expand(grey_end, 1, 3), pixels).floor_()
                plain.append(grey[: self._coloured].view(-1, 1, height, width).expand(-1, 3, -1, -1))
            if self._contrasted:
                # The mean, rounded: halves upwards.
                total = grey[self._coloured :].sum(2, keepdim=True, dtype=torch.float64).add_(height * width / 2)
                mean = torch.empty(total.shape, device=images.device)
                torch.div(total, height * width, rounding_mode="floor", out=mean)
                plain.append(mean[..., None].expand(-1, 3, height, width))
            if self._sharpened:
                plain.append(values[grey_end:])
            # Also a new tensor where there is but one kind.
            plains = torch.cat(plain)
            if self._sharpened:
                # A sum over 13, rounded; the outermost pixels stay as they are.
                sums = F.conv2d(values[grey_end:], known.smooth, known.rounding, groups=3)
                torch.div(sums, 13.0, rounding_mode="floor", out=plains[grey_end:, :, 1:-1, 1:-1])
        torch.addcmul(plains, self._parcel.get(self._factors)[:, None, None, None], values.sub_(plains), out=out)


@lru_cache(maxsize=8)
def _autocontrasts(device: torch.device) -> Tensor:
    """Compute the tables of all lowest and highest levels: uint8 (65536, 256), the row of both is high + 256 low."""
    levels = np.arange(256, dtype=np.float64)
    tables = np.tile(levels.astype(np.uint8), (256, 256, 1))
    for low in range(255):
        scale = (255.0 / (levels[low + 1 :] - low))[:, None]
        stretched = levels * scale + -low * scale
        tables[low, low + 1 :] = np.clip(stretched, 0.0, 255.0).astype(np.uint8)
    return sent(tables.reshape(65536, 256), device)


@lru_cache(maxsize=8)
def _steps(pixels: int, device: torch.device) -> Tensor:
    """Compute the facts of equalize by the number of pixels below the highest level: int64 (pixels + 1, 4).

    They are pixels for a level, at least 1; half of them; 1 and 0 if there are enough for a level, else 0 and 1.
    """
    step = np.arange(pixels + 1, dtype=np.int64) // 255
    enough = (step > 0).astype(np.int64)
    return sent(np.stack([np.maximum(step, 1), step // 2, enough, 1 - enough], axis=1), device)


class _Constants:
    """Hold what depends on no image."""

    def __init__(self, device: torch.device) -> None:
        self.one = sent(np.ones((1, 1, 1), np.int64), device)
        self.levels = sent(np.arange(256, dtype=np.int64), device)
        self.half = sent(np.full((1, 1, 1), 0.5, np.float32), device)
        self.luminance = sent(_LUMINANCE.reshape(1, 1, 3), device)
        self.smooth = sent(np.tile(_SMOOTH, (3, 1, 1, 1)), device)
        self.rounding = sent(np.full(3, 6.5, np.float32), device)


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> _Constants:
    return _Constants(device)
