"""Draw an image beside the overlay of its occlusion map.

Letters in shapes: H W height and width of the picture, g cells of the map along one side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.data.captions import caption
from lgkd.deploy.inference.occlusion import spread_over

_VIRIDIS = (
    "440154 481466 482575 463480 414487 3b528b 345f8d 2f6c8e 2a788e 25848e 21908c 1e9c89 22a884 2fb47c 43bf71 5dc963 "
    "7ad151 9ad93d bcdf27 dde318 fde725"
)
"""Equidistant colours of viridis (Smith & van der Walt, CC0): its lightness rises steadily, so that it can be read by
those who do not tell red from green, and in grey."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts
_SHARE = 0.55
"""Of the colour in the overlay; the rest is the image in grey."""

_LEAST_SIDE = 224
"""Smaller images are enlarged by a whole factor to at least this longer side."""

_LEAST_WIDTH = 460
_LEGEND = "bright: covering this part weakens the class most; dark: not at all"

_GAP, _FONT, _BAR = 8, 15, 12
_LETTERS = 50
"""Width of a large picture in sizes of its font."""


def overlay(pixels_3HW: Tensor, map_gg: Tensor) -> Tensor:
    """Colour an image by a map that covers all of it: uint8 (3,H,W).

    Args:
        pixels_3HW: uint8.
        map_gg: as of `occlusion_map`; it is scaled to a largest value of 1.
    """
    size = (pixels_3HW.shape[1], pixels_3HW.shape[2])
    map_HW = spread_over(map_gg, size)
    most = map_HW.max()
    colours_3HW = colours(map_HW / most if most > 0 else map_HW)
    grey_HW = (pixels_3HW.float() * torch.tensor(_GREY)[:, None, None]).sum(0)
    return (_SHARE * colours_3HW + (1 - _SHARE) * grey_HW).round().clamp(0, 255).to(torch.uint8)


def colours(values_HW: Tensor) -> Tensor:
    """Return viridis' colours for values from 0 to 1: float32 (3,H,W), levels from 0 to 255."""
    table_N3 = torch.tensor([[*bytes.fromhex(one)] for one in _VIRIDIS.split()], dtype=torch.float32)
    places = values_HW.clamp(0, 1) * (len(table_N3) - 1)
    below = places.floor().long().clamp(max=len(table_N3) - 2)
    share = (places - below)[..., None]
    return (table_N3[below] * (1 - share) + table_N3[below + 1] * share).permute(2, 0, 1)


def picture(pixels_3HW: Tensor, map_gg: Tensor, lines: Sequence[str]) -> Tensor:
    """Place lines of text above an image and its overlay, side by side, and a colour scale below: uint8 (3,H,W)."""
    pixels_3HW = enlarged(pixels_3HW)
    shown = overlay(pixels_3HW, map_gg)
    gap = torch.full((3, pixels_3HW.shape[1], _GAP), 255, dtype=torch.uint8)
    pair = torch.cat([pixels_3HW, gap, shown], dim=2)
    width = max(pair.shape[2], _LEAST_WIDTH)
    words = _LEGEND if map_gg.any() else "covering any part of the image does not weaken this class"
    scale = colours(torch.linspace(0, 1, width).repeat(_BAR, 1)).round().to(torch.uint8)
    font = max(_FONT, width // _LETTERS)
    parts = [caption(lines, width, font), _widened(pair, width), scale, caption([words], width, round(0.75 * font))]
    space = torch.full((3, _GAP, width), 255, dtype=torch.uint8)
    rows = [piece for part in parts for piece in (part, space)][:-1]
    return F.pad(torch.cat(rows, dim=1), (_GAP, _GAP, _GAP, _GAP), value=255)


def enlarged(pixels_3HW: Tensor) -> Tensor:
    """Repeat the pixels of a small image, so that its longer side is at least `_LEAST_SIDE` pixels."""
    longest = max(pixels_3HW.shape[1:])
    factor = -(-_LEAST_SIDE // longest)
    return pixels_3HW.repeat_interleave(factor, 1).repeat_interleave(factor, 2) if factor > 1 else pixels_3HW


def _widened(pixels_3HW: Tensor, width: int) -> Tensor:
    return F.pad(pixels_3HW, (0, width - pixels_3HW.shape[2]), value=255)
