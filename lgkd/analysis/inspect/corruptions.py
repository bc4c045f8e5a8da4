"""Corrupt images in five severities each: noise, blur, brightness, contrast, JPEG.

Kinds and strengths follow CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261); figures differ from those of the
published sets, which use other draws, and change brightness in another colour space.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from lgkd._internal.rng import seed_of
from lgkd._internal.text import did_you_mean
from lgkd.data.dataset import Images
from lgkd.data.encode import through_jpeg
from lgkd.errors import InputError

STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "jpeg": (80, 65, 58, 50, 40),
}
"""Strengths of severities 1 to 5. Noise: standard deviation, where white is 1. Blur: standard deviation of the Gaussian
in pixels, for images of 32 pixels; others in proportion. Brightness: added to all channels, where white is 1. Contrast:
factor of the difference to a channel's mean. JPEG: quality."""

_SIDE = 32


def corrupt(images: Images, kind: str, severity: int) -> Images:
    """Corrupt images at their stored size, before resizing.

    The noise of an image is drawn from its name and the severity, so that it is the same at every call, in every run,
    and with whichever images it is corrupted.

    Args:
        images: the split.
        kind: a key of `STRENGTHS`.
        severity: 1 to 5.

    Raises:
        InputError: another kind or severity.
    """
    if kind not in STRENGTHS:
        raise InputError(f"there is no corruption {kind!r}; {did_you_mean(kind, STRENGTHS)}")
    if not 1 <= severity <= len(STRENGTHS[kind]):
        raise InputError(f"the severity is {severity}, expected 1 to {len(STRENGTHS[kind])}")
    strength = STRENGTHS[kind][severity - 1]
    images.check()
    if kind == "brightness":
        return replace(images, pixels=_levels(images.pixels.float() + 255 * strength))
    changes = {"blur": _blurred, "contrast": _contrasted, "jpeg": _compressed}
    pixels = images.pixels.clone()
    for place, (height, width) in enumerate(images.sizes.tolist()):
        canvas = pixels[place]
        part = canvas[:, :height, :width]
        if kind == "gaussian noise":
            whole = _noisy(part, strength, seed_of("corrupt", severity, images.names[place]))
        else:
            whole = changes[kind](part, strength)
        # The fill of the canvas repeats the image's border, which resizing reads.
        canvas[:, :height, :width] = whole
        canvas[:, height:, :width] = whole[:, -1:, :]
        canvas[:, :, width:] = canvas[:, :, width - 1 : width]
    return replace(images, pixels=pixels)


Change = Callable[[Tensor, float], Tensor]


def _noisy(image_3HW: Tensor, strength: float, seed: int) -> Tensor:
    draws = torch.randn(image_3HW.shape, generator=torch.Generator().manual_seed(seed))
    return _levels(image_3HW.float() + 255 * strength * draws)


def _blurred(image_3HW: Tensor, strength: float) -> Tensor:
    shortest = min(image_3HW.shape[-2:])
    sigma = strength * shortest / _SIDE
    # The kernel must not be longer than the part that can be mirrored at the border.
    reach = max(1, min(math.ceil(4 * sigma), shortest - 1))
    return _levels(gaussian_blur(image_3HW.float(), [2 * reach + 1] * 2, [sigma] * 2))


def _contrasted(image_3HW: Tensor, strength: float) -> Tensor:
    mean_311 = image_3HW.float().mean(dim=(1, 2), keepdim=True)
    return _levels((image_3HW.float() - mean_311) * strength + mean_311)


def _compressed(image_3HW: Tensor, strength: float) -> Tensor:
    return through_jpeg(image_3HW, int(strength))


def _levels(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)
