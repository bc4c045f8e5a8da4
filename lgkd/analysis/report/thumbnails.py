"""Images of a data set as part of a page."""

from base64 import b64encode

import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.analysis.report.html import Html, text
from lgkd.data.dataset import Images
from lgkd.data.encode import as_png

_SIDE = 96


def picture(images: Images, place: int, *, side: int = _SIDE) -> Tensor:
    """One image without what fills up its canvas, its longer side at most `side` pixels: uint8 (3,h,w)."""
    images.check(torch.tensor([place]))
    height, width = images.sizes[place].tolist()
    pixels_3HW = images.pixels[place, :, :height, :width]
    longest = max(height, width)
    if longest <= side:
        return pixels_3HW.contiguous()
    size = (max(1, round(height * side / longest)), max(1, round(width * side / longest)))
    small = F.interpolate(pixels_3HW[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return small.round().clamp(0, 255).to(torch.uint8)


def embedded(images: Images, place: int, alt: str) -> Html:
    """One image as an element that holds its own pixels, as PNG."""
    pixels_3HW = picture(images, place)
    data = b64encode(as_png(pixels_3HW)).decode("ascii")
    height, width = pixels_3HW.shape[1:]
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text(alt)}">'
