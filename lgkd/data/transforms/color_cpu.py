"""Change one large image at a time, in place, on CPUs.

Results equal those of `color` and `affine` on batches to the level; those read a table for every pixel, or look up a
pixel for every other one, while here a handful of vector instructions change the image in place. Images are uint8
(1, 3, H, W).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lgkd.data.transforms.affine import HAIR, Fill, tap_weights
from lgkd.data.transforms.color import mean_grey
from lgkd.data.transforms.device import cut
from lgkd.data.transforms.resized_crop import Interpolation

LARGE = 2**14
"""Pixels from which on this is quicker than work on batches."""

TRANSLATED = {"translate_x": 3, "translate_y": 2}
"""Along which dimension an operation moves an image."""


def _invert(image: Tensor, _: float) -> None:
    image.bitwise_xor_(255)


def _posterize(image: Tensor, bits: float) -> None:
    if bits < 8:
        image.bitwise_and_(256 - 2 ** (8 - int(bits)))


def _solarize(image: Tensor, threshold: float) -> None:
    first = math.ceil(threshold)
    if first <= 0:
        image.bitwise_xor_(255)
    elif first < 256:
        # 1 from the threshold on, 0 below: comparing bytes takes ten times as long. Negated that is 255 and 0.
        image.bitwise_xor_(image.clamp(first - 1, first).sub_(first - 1).neg_())


def _solarize_add(image: Tensor, amount: float) -> None:
    image.add_((128 - image.clamp(127, 128)).mul_(int(amount)))


def _brightness(image: Tensor, factor: float) -> None:
    image.copy_(cut(image.float().mul_(factor).clamp_(0.0, 255.0)))


def _contrast(image: Tensor, factor: float) -> None:
    mean = float(mean_grey(image))
    image.copy_(cut(image.float().sub_(mean).mul_(factor).add_(mean).clamp_(0.0, 255.0)))


RECOLOURED: dict[str, Callable[[Tensor, float], None]] = {
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "brightness": _brightness,
    "contrast": _contrast,
}
"""Operations by an argument such as the policy draws: whole bits from 1, whole levels from 0 to 128 that are added."""


def translate(image: Tensor, share: float, dimension: int, fill: Fill, interpolation: Interpolation) -> None:
    """Move an image by `share` of its side towards the beginning of `dimension` (2: rows, 3: columns).

    All pixels have the same position between their two neighbours' centres, so that no lookup is needed.
    """
    side = image.shape[dimension]
    shift = share * side
    whole = math.floor(shift)
    first, end = (min(max(math.ceil(edge - shift), 0), side) for edge in (-0.5, side - 0.5))
    colour = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    if end > first:
        weights = torch.stack(tap_weights(torch.tensor(shift - whole, dtype=torch.float32), interpolation))
        read = _repeated(image, first + whole - len(weights) // 2 + 1, end - first + len(weights) - 1, dimension)
        pieces = [read.narrow(dimension, tap, end - first) for tap in range(len(weights))]
        values = weights[0] * pieces[0]
        for weight, piece in zip(weights[1:], pieces[1:], strict=True):
            values.addcmul_(weight, piece)
        image.narrow(dimension, first, end - first).copy_(cut(values.add_(HAIR)))
    image.narrow(dimension, 0, first).copy_(colour)
    image.narrow(dimension, end, side - end).copy_(colour)


def _repeated(image: Tensor, start: int, length: int, dimension: int) -> Tensor:
    """Return `length` lines from `start` on as float32; beyond the image its first and last are repeated."""
    side = image.shape[dimension]
    shape = list(image.shape)
    shape[dimension] = length
    lines = torch.from_numpy(np.empty(shape, np.float32))
    low, high = (min(max(edge, 0), side) for edge in (start, start + length))
    lines.narrow(dimension, low - start, high - low).copy_(image.narrow(dimension, low, high - low))
    lines.narrow(dimension, 0, low - start).copy_(image.narrow(dimension, 0, 1))
    lines.narrow(dimension, high - start, start + length - high).copy_(image.narrow(dimension, side - 1, 1))
    return lines
