"""Embed images of a data set in a page."""

from base64 import b64encode

import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.data.encode import as_jpeg, as_png

_SIDE = 256
"""The longest side, in pixels, of an embedded image; data sets of photographs are decoded to about this size."""
_SMALL = 96
"""The longest side, in pixels, up to which an image is shown pixel by pixel, and embedded without loss."""
_QUALITY = 85


def picture(images: Images, place: int, *, side: int = _SIDE) -> Tensor:
    """Return one image without the fill of its canvas, its longer side at most `side` pixels: uint8 (3,h,w)."""
    images.check(torch.tensor([place]))
    height, width = images.sizes[place].tolist()
    pixels_3HW = images.pixels[place, :, :height, :width]
    longest = max(height, width)
    if longest <= side:
        return pixels_3HW.contiguous()
    size = (max(1, round(height * side / longest)), max(1, round(width * side / longest)))
    small = F.interpolate(pixels_3HW[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return small.round().clamp(0, 255).to(torch.uint8)


def embedded(images: Images, place: int) -> dict[str, object]:
    """Return one image for the template in its own resolution, and its size: PNG, or JPEG of a photograph."""
    pixels_3HW = picture(images, place)
    height, width = pixels_3HW.shape[1:]
    small = max(height, width) <= _SMALL
    content = as_png(pixels_3HW) if small else as_jpeg(pixels_3HW, _QUALITY)
    return {
        "format": "png" if small else "jpeg",
        "data": b64encode(content).decode("ascii"),
        "width": width,
        "height": height,
        "small": small,
    }
