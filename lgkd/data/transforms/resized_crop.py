"""Draw crop boxes, and resample a batch where every image has its own box.

A box is (top, left, height, width) in whole pixels of the stored image. Boxes are drawn on the host;
the device receives them as parameters and resizes all images of a batch in two batched matrix products.

Resampling follows Pillow's `Image.resize`: separable, antialiased when it shrinks (the filter grows
with the scale), weights normalised over the pixels of the box, rounded to whole levels after the
horizontal and again after the vertical pass. It differs in two things. Weights are multiples of 2^-15,
Pillow's of 2^-22: products of such weights with whole levels, and their sums, are exact in float32, so
that a result does not depend on the order of summation and with it on the batch or the library; the
price is a level now and then, where a sum is all but halfway between two. And the horizontal pass
always comes first, while Pillow 13 begins with the vertical one where that is cheaper, which shows where hard
edges overshoot. On CUDA the sums are exact as long as float32 products are (not with TF32, which costs up to
a tenth of a level before rounding).
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import cut, portions, sent

Interpolation = Literal["bicubic", "bilinear"]
Boxes = NDArray[np.int64]

CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2

REACH: dict[str, float] = {"bicubic": 2.0, "bilinear": 1.0}  # half the width of the filter, in pixels
_BAND = 56  # output pixels a band: with fewer there are more products, with more they are emptier
WEIGHT_UNITS = 2.0**15  # 255 * 2^15 * sum |weight| stays below 2^24, where float32 stops being exact


def whole_boxes(sizes: NDArray[np.int64]) -> Boxes:
    """Return the valid area of each image: (B, 2) heights and widths -> (B, 4) boxes."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)


def _placed(room: NDArray[np.float64], draw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw a uniform whole number of 0 ... room."""
    return np.minimum(np.floor(draw * (room + 1.0)), room)


def random_resized_boxes(
    sizes: NDArray[np.int64],
    draws: NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Boxes:
    """Draw boxes of a random area and a random shape, as torchvision's and timm's RandomResizedCrop.

    Ten tries of (area uniform in `scale`, width / height log-uniform in `ratio`), the first that fits
    is placed uniformly; when none fits, the largest centred box whose shape is allowed.

    Args:
        sizes: (B, 2) valid heights and widths.
        draws: (B, CROP_DRAWS) uniform numbers in [0, 1).

    Returns:
        (B, 4) boxes inside the valid areas.
    """
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    tries = draws[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = (scale[0] + (scale[1] - scale[0]) * tries[:, :, 0]) * (height * width)[:, None]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * tries[:, :, 1])
    # At least one pixel: a small enough image rounds to none.
    box_width = np.maximum(np.rint(np.sqrt(area * aspect)), 1.0)
    box_height = np.maximum(np.rint(np.sqrt(area / aspect)), 1.0)
    fits = (box_width <= width[:, None]) & (box_height <= height[:, None])

    rows = np.arange(len(sizes))
    first = fits.argmax(axis=1)
    chosen_width, chosen_height = box_width[rows, first], box_height[rows, first]
    top = _placed(height - chosen_height, draws[:, -2])
    left = _placed(width - chosen_width, draws[:, -1])

    slim, broad = width / height < ratio[0], width / height > ratio[1]
    centred_height = np.maximum(np.where(slim, np.rint(width / ratio[0]), height), 1.0)
    centred_width = np.maximum(np.where(broad, np.rint(height * ratio[1]), width), 1.0)
    centred = [(height - centred_height) // 2, (width - centred_width) // 2, centred_height, centred_width]
    drawn = [top, left, chosen_height, chosen_width]
    any_fits = fits.max(axis=1, keepdims=True)
    return np.where(any_fits, np.stack(drawn, 1), np.stack(centred, 1)).astype(np.int64)


def padded_boxes(sizes: NDArray[np.int64], draws: NDArray[np.float64], padding: float) -> Boxes:
    """Draw boxes of the image's own size, moved by up to `padding` of a side; they may reach outside.

    Args:
        sizes: (B, 2) valid heights and widths.
        draws: (B, 2) uniform numbers in [0, 1).
    """
    reach = np.rint(sizes * padding)
    start = _placed(2.0 * reach, draws) - reach
    return np.concatenate([start.astype(np.int64), sizes], axis=1)


def _filtered(distance: Tensor, interpolation: Interpolation) -> Tensor:
    """Apply Pillow's resize filters: the triangle, and the cubic with a = -1/2."""
    d = distance.abs()
    inner = (1.0 - d).clamp_(min=0.0)
    if interpolation == "bilinear":
        return inner
    # The two pieces of the cubic as truncated powers: comparing and choosing takes longer.
    outer = (2.0 - d).clamp_(min=0.0)
    return 0.5 * outer * outer * (outer - 1.0) + inner * inner * (1.0 - 2.0 * inner)


def taps_of(
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    extent: int,
    out: int,
    interpolation: Interpolation,
    device: torch.device,
    mirrored: NDArray[np.bool_] | None = None,
    valid: NDArray[np.int64] | None = None,
    *,
    reflect: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute which of `extent` stored pixels make up the `out` pixels of an interval, with their weights.

    Args:
        start, length: (B,) the interval, in stored pixels.
        mirrored: (B,) whose output runs backwards.
        valid: (B,) number of stored pixels that are the image's; by default all. Others count as zero.
        reflect: fill the interval outside the image by reflection instead of zeros.

    Returns:
        The stored pixels' numbers, int64 (B, taps, out), and their weights, float32 of that shape.
    """
    begin = sent(start, device)[:, None, None]
    size = sent(length, device, torch.float32)[:, None, None]
    place = torch.arange(out, dtype=torch.float32, device=device).expand(len(start), 1, out)
    if mirrored is not None:
        place = torch.where(sent(mirrored, device)[:, None, None], out - 1 - place, place)

    step = size / out
    stretch = step.clamp(min=1.0)
    centre = (place + 0.5) * step
    first = torch.floor(centre - REACH[interpolation] * stretch + 0.5).clamp_(min=0.0)
    # The number of taps comes from the storage, not from the longest interval of this batch: the
    # rest of a batch must not decide how a sum is arranged.
    taps = math.ceil(2.0 * REACH[interpolation] * max(1.0, extent / out))
    tap = first + torch.arange(taps, dtype=torch.float32, device=device)[:, None]
    # The factor is 1 inside the box and 0 beyond it: both are whole numbers.
    weight = _filtered((tap + 0.5 - centre) / stretch, interpolation) * (size - tap).clamp_(0.0, 1.0)
    # Rounding the running sum, not the weights, keeps their sum at one, so that flat areas stay flat.
    running = weight.cumsum(1)
    running = torch.round(running * (WEIGHT_UNITS / running[:, -1:]))
    running[:, 1:] -= running[:, :-1].clone()
    weight = running.div_(WEIGHT_UNITS)

    column = tap.long().add_(begin)
    limit = np.full_like(length, extent) if valid is None else valid
    if start.min() < 0 or (start + length > limit).any():
        count = sent(limit, device)[:, None, None]
        if reflect:
            column = reflected(column, count)
        else:
            weight *= (column >= 0) & (column < count)
    return column.clamp_(0, extent - 1), weight


def reflected(column: Tensor, count: Tensor) -> Tensor:
    """Map any whole numbers into 0 ... count - 1 by reflections at both ends, as `np.pad(mode="reflect")`.

    The end pixels are not repeated; a padding longer than the image is reflected repeatedly.
    """
    last = count - 1
    return last - (column.remainder((2 * last).clamp(min=1)) - last).abs()


def interpolation_matrix(column: Tensor, weight: Tensor, extent: int) -> Tensor:
    """Compute the taps as matrices that take `extent` pixels to `out` pixels: float32 (B, extent, out)."""
    # Taps share a column with weights only where the image is reflected; sums of multiples of 2^-15 are exact, so
    # that nothing depends on their order.
    matrix = torch.zeros(len(column), extent, column.shape[2], device=column.device)
    return matrix.scatter_add_(1, column, weight)


def resample(
    pixels: Tensor,
    boxes: Boxes,
    size: tuple[int, int],
    interpolation: Interpolation,
    mirrored: NDArray[np.bool_] | None = None,
    valid: NDArray[np.int64] | None = None,
    *,
    reflect: bool = False,
) -> Tensor:
    """Cut each image's box and resize it to `size`.

    Args:
        pixels: uint8 (B, C, S, T) on any device.
        boxes: (B, 4) on the host, no longer than S and T.
        size: (height, width) of the result.
        mirrored: (B,) True for images mirrored left to right.
        valid: (B, 2) heights and widths of the images, in the upper left of the stored canvas; by default all of
            it. The part of a box beyond them is black.
        reflect: fill that part by reflection of the image instead.

    Returns:
        uint8 (B, C, height, width), a new tensor.
    """
    count, channels, rows, columns = pixels.shape
    height, width = size
    limits = np.tile([rows, columns], (count, 1)) if valid is None else valid
    top, left, high, wide = boxes.T
    device = pixels.device
    down = taps_of(top, high, rows, height, interpolation, device, None, limits[:, 0], reflect=reflect)
    across = taps_of(left, wide, columns, width, interpolation, device, mirrored, limits[:, 1], reflect=reflect)
    result = pixels.new_empty(count, channels, height, width)
    parts = list(portions(count, channels * max(rows, height) * max(columns, width), device))
    if device.type == "cpu" and len(parts) == count:
        # Sums are exact, so that it does not matter in which way they are arranged.
        bands_down, bands_across = _Bands(*down, rows), _Bands(*across, columns)
        for place in range(count):
            _resample_one(result[place], pixels[place], bands_down.of(place), bands_across.of(place))
        return result
    matrix_down, matrix_across = interpolation_matrix(*down, rows), interpolation_matrix(*across, columns)
    for part in parts:
        _resample_into(result[part], pixels[part], matrix_down[part], matrix_across[part])
    return result


def _resample_into(result: Tensor, pixels: Tensor, down: Tensor, across: Tensor) -> None:
    """Run both passes for a portion: uint8 (b, C, S, T) by (b, S, height) and (b, T, width)."""
    count, channels, rows, columns = pixels.shape
    with torch.autocast(pixels.device.type, enabled=False):
        lines = torch.bmm(pixels.float().view(count, channels * rows, columns), across)
        lines = lines.add_(0.5).floor_().clamp_(0.0, 255.0).view(count, channels, rows, -1)
        # Channel by channel: one product over all would first copy the matrices or the images.
        for channel in range(channels):
            levels = torch.bmm(down.mT, lines[:, channel])
            result[:, channel] = cut(levels.add_(0.5))


class _Band(NamedTuple):
    """Hold some neighbouring output pixels of one image, and the stored pixels that they are made of."""

    out: slice
    source: slice
    """Stored pixels."""
    matrix: Tensor
    """float32 (stored pixels, output pixels)."""


class _Bands:
    """Cut taps into bands of output pixels, each with a matrix that holds little besides the taps.

    Args:
        column, weight: from `taps_of`, on the CPU.
        extent: of the stored canvas; a small one gets a single product.
    """

    def __init__(self, column: Tensor, weight: Tensor, extent: int) -> None:
        out = column.shape[2]
        edges = [*range(0, out, _BAND if extent > _BAND else out), out]
        self._bands = []
        for first, end in pairwise(edges):
            part = column[:, :, first:end]
            lowest, highest = part.amin((1, 2)), part.amax((1, 2))
            spans = highest - lowest + 1
            matrices = interpolation_matrix(
                part - lowest[:, None, None], weight[:, :, first:end], int(spans.numpy().max())
            )
            self._bands.append((slice(first, end), lowest.tolist(), spans.tolist(), matrices))

    def of(self, place: int) -> list[_Band]:
        """Compute the bands of one image."""
        return [
            _Band(out, slice(lowest[place], lowest[place] + spans[place]), matrices[place, : spans[place]])
            for out, lowest, spans, matrices in self._bands
        ]


def _resample_one(result: Tensor, pixels: Tensor, down: list[_Band], across: list[_Band]) -> None:
    """Run both passes for one large image on the CPU: uint8 (C, S, T) into (C, height, width), cropped first."""
    top, bottom = min(band.source.start for band in down), max(band.source.stop for band in down)
    left, right = min(band.source.start for band in across), max(band.source.stop for band in across)
    channels, width = len(pixels), result.shape[2]
    # Rows before channels: then each pass is one product a band.
    values = torch.empty(bottom - top, channels, right - left)
    values.copy_(pixels[:, top:bottom, left:right].transpose(0, 1))
    values = values.view(-1, right - left)
    lines = torch.empty(len(values), width)
    for band in across:
        torch.mm(values[:, band.source.start - left : band.source.stop - left], band.matrix, out=lines[:, band.out])
    rows = lines.add_(0.5).floor_().clamp_(0.0, 255.0).view(bottom - top, -1)
    for band in down:
        levels = torch.mm(band.matrix.T, rows[band.source.start - top : band.source.stop - top])
        result[:, band.out] = cut(levels.add_(0.5)).view(-1, channels, width).transpose(0, 1)
