"""Convert stored RGB pixels to the channels that a model takes: three, or one of grey levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD, LUMA


def with_channels(pixels_B3HW: Tensor, channels: int) -> Tensor:
    """Return stored pixels, uint8 (B,3,H,W), or their grey levels, (B,1,H,W), as Pillow's mode "L" has them.

    A grey image, whose channels are equal, keeps its levels.
    """
    return pixels_B3HW if channels == 3 else luminance(pixels_B3HW).to(torch.uint8)


def luminance(pixels_B3HW: Tensor) -> Tensor:
    """Compute Pillow's grey levels: float32 (B,1,H,W), whole numbers. 255 * 2^16 + 2^15 < 2^24: exact in float32."""
    red, green, blue = pixels_B3HW.float().unbind(1)
    return ((red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0) / 65536.0).floor_().unsqueeze(1)


def imagenet_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's mean and standard deviation of three channels, or of grey levels.

    The mean of grey levels is the weighted mean of the channels' means, exactly. Their deviation is that of channels
    which vary together, as those of photographs nearly do: the weighted mean of the channels' deviations.
    """
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (weighted(IMAGENET_MEAN),), (weighted(IMAGENET_STD),)


def weighted(values: Sequence[float]) -> float:
    """Return the mean of red, green and blue, weighted as in a grey level."""
    return sum(weight * value for weight, value in zip(LUMA, values, strict=True))
