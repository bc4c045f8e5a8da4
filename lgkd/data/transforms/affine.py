"""Shear, shift and rotate image batches, each image by its own amount.

The convention is that of Pillow's `Image.transform(AFFINE)`: the centre of output pixel (x, y) is at
(x + 1/2, y + 1/2), is mapped into the input, and takes the fill colour when it is outside; taps beyond
the border repeat the border; results are cut, not rounded, to whole levels. Pillow's bicubic is the cubic
with a = -1 here, while its resize uses a = -1/2 and torch's grid_sample a = -3/4, so neither
of those can be used.

Values are computed in float32 where Pillow uses doubles. A sum that is a whole level in exact
arithmetic may come out a hair below and would be cut to the level beneath; `HAIR` is added against
that, and costs one level where a value is less than a thousandth below a whole one.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import cut, sent
from lgkd.data.transforms.resized_crop import Interpolation

Fill = tuple[int, ...]
Shift = NDArray[np.float64]

HAIR = 2.0**-10


def tap_weights(part: Tensor, interpolation: Interpolation) -> list[Tensor]:
    """Compute weights for a position `part` in [0, 1) of the pixels at -1, 0, 1, 2 (bicubic) or 0, 1 (bilinear)."""
    d = part
    if interpolation == "bilinear":
        return [1.0 - d, d]
    return [
        ((2.0 - d) * d - 1.0) * d,
        (d - 2.0) * d * d + 1.0,
        ((1.0 - d) * d + 1.0) * d,
        (d - 1.0) * d * d,
    ]


@cache
def _colour(fill: Fill, device: torch.device) -> Tensor:
    """Send a fill colour, once a process: uint8 (1, 3, 1, 1)."""
    return sent(np.asarray(fill, dtype=np.uint8), device)[None, :, None, None]


def _whole_levels(values: Tensor, inside: Tensor, fill: Fill) -> Tensor:
    """Convert values (n, 3, H, W) to levels, with the fill colour where `inside`, (n, 1, H, W), is 0 and not 1."""
    colour = _colour(fill, values.device)
    # Multiplied by 0 and 1: choosing between bytes takes twenty times as long on a CPU.
    kept = inside.to(torch.int16).to(torch.uint8)
    return cut(values.add_(HAIR)).mul_(kept).add_(colour * (1 - kept))


def _within(places: Tensor, first: Tensor | float, end: Tensor | float) -> Tensor:
    """Return 1 for whole numbers first <= place < end, 0 for others, of the same type.

    Two cuts and a product: comparing takes five times as long on a CPU.
    """
    return (places - (first - 1)).clamp_(0, 1).mul_((end - places).clamp_(0, 1))


def _slid(images: Tensor, shift: Shift, fill: Fill, interpolation: Interpolation) -> Tensor:
    """Read each row's pixels `shift` further right: out(x) = in(x + shift).

    Shears and translations are of this kind. The position between two pixels is the same along a row,
    so one gather and a few multiplications do what a general warp needs sixteen reads for.

    Args:
        images: uint8 (n, 3, H, W).
        shift: (n, H) in pixels, on the host.
        fill: levels for what comes from outside.

    Returns:
        uint8 (n, 3, H, W).
    """
    channels, width = images.shape[1], images.shape[3]
    device = images.device
    whole = np.floor(shift)
    # Columns first <= x < end are inside: 0 <= x + 1/2 + shift < width.
    first, end = np.ceil(-0.5 - shift), np.ceil(width - 0.5 - shift)
    base, first_column, end_column = sent(np.stack([whole, first, end]), device, torch.int64)[..., None]
    part = sent(shift - whole, device, torch.float32)[:, None, :, None]
    weights = tap_weights(part, interpolation)
    before = 1 if interpolation == "bicubic" else 0
    column = torch.arange(-before, width + len(weights) - 1 - before, device=device)
    source = (column + base).clamp_(0, width - 1)[:, None].expand(-1, channels, -1, -1)
    read = images.gather(3, source).float()
    values = weights[0] * read[..., :width]
    for offset, weight in enumerate(weights[1:], start=1):
        values.addcmul_(weight, read[..., offset : offset + width])

    column = column[before : before + width].to(torch.int32)
    return _whole_levels(values, _within(column, first_column.int(), end_column.int())[:, None], fill)


def slide_x(images: Tensor, slope: Shift, share: Shift, fill: Fill, interpolation: Interpolation) -> Tensor:
    """Shear and shift along x: rows move left by `slope` times their depth, and by `share` of the width.

    Args:
        images: uint8 (n, 3, H, W).
        slope, share: (n,), on the host.
        fill: levels for what comes from outside.

    Returns:
        uint8 (n, 3, H, W).
    """
    height, width = images.shape[2:]
    depth = np.arange(height) + 0.5
    return _slid(images, slope[:, None] * depth + (share * width)[:, None], fill, interpolation)


def slide_y(images: Tensor, slope: Shift, share: Shift, fill: Fill, interpolation: Interpolation) -> Tensor:
    """Shear and shift along y: `slide_x` with the axes exchanged."""
    turned = images.transpose(2, 3).contiguous()
    return slide_x(turned, slope, share, fill, interpolation).transpose(2, 3)


def rotate(images: Tensor, degrees: Shift, fill: Fill, interpolation: Interpolation) -> Tensor:
    """Turn images counterclockwise about their centre.

    Args:
        images: uint8 (n, 3, H, W).
        degrees: (n,), on the host.
        fill: levels for what comes from outside.

    Returns:
        uint8 (n, 3, H, W).
    """
    count, channels, height, width = images.shape
    device = images.device
    angle = -np.radians(degrees)
    # Rounded as Pillow rounds, so that no angle leaves a stray 6e-17.
    cosine, sine = np.cos(angle).round(15), np.sin(angle).round(15)
    middle_x, middle_y = width / 2.0, height / 2.0
    right = middle_x - cosine * middle_x - sine * middle_y
    below = middle_y + sine * middle_x - cosine * middle_y
    cos, sin, dx, dy = sent(np.stack([cosine, sine, right, below]), device, torch.float32)[..., None, None]

    x = torch.arange(width, device=device) + 0.5
    y = (torch.arange(height, device=device) + 0.5)[:, None]
    at_x, at_y = cos * x + sin * y + dx, cos * y - sin * x + dy
    inside = _within(torch.floor(at_x), 0, width).mul_(_within(torch.floor(at_y), 0, height))[:, None]
    # Positions outside only have to be readable; the fill colour overwrites the values read there.
    at_x, at_y = at_x.clamp_(0.0, width).sub_(0.5), at_y.clamp_(0.0, height).sub_(0.5)
    column, row = torch.floor(at_x), torch.floor(at_y)
    across = [weight.flatten() for weight in tap_weights(at_x - column, interpolation)]
    down = [weight.flatten() for weight in tap_weights(at_y - row, interpolation)]

    # With the border repeated three pixels outwards every tap is at a fixed distance from the first:
    # one index, read from sixteen places. A channel of all images is one line: from that, reading is quickest.
    planes = F.pad(images.float(), (3, 3, 3, 3), mode="replicate").transpose(0, 1).flatten(1)
    before = 1 if interpolation == "bicubic" else 0
    corner = (row.int() + (3 - before)) * (width + 6) + (column.int() + (3 - before))
    corner += torch.arange(count, dtype=torch.int32, device=device)[:, None, None] * ((height + 6) * (width + 6))
    index = corner.flatten()
    values = torch.empty(channels, count * height * width, device=device)
    line, read = values.new_empty(2, values.shape[1])
    for plane, result in zip(planes, values, strict=True):
        for deeper, row_weight in enumerate(down):
            first = deeper * (width + 6)
            torch.mul(torch.index_select(plane[first:], 0, index, out=read), across[0], out=line)
            for further, weight in enumerate(across[1:], start=first + 1):
                line.addcmul_(torch.index_select(plane[further:], 0, index, out=read), weight)
            torch.mul(line, row_weight, out=result) if not deeper else result.addcmul_(line, row_weight)
    values = values.view(channels, count, height, width).transpose(0, 1)
    return _whole_levels(values, inside, fill)
