"""Change colours of uint8 batches (n, C, H, W), each image with its own strength; C is 3, or 1 for grey levels.

Results equal those of Pillow's ImageOps and ImageEnhance. Where every output level depends on the input
level alone, an operation is a *table* of 256 entries per image and channel, and images whose tables are
known are changed together by one lookup, for all operations. Strengths are float32 (n,) on the
images' device.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lgkd.data.channels import luminance
from lgkd.data.transforms.device import cut

_LARGE = 2**12  # pixels


def _one_by_one(images: Tensor) -> bool:
    """Return True for images so large that on a CPU work plane by plane is quicker."""
    return images.device.type == "cpu" and images.shape[2] * images.shape[3] >= _LARGE


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.float32, device=images.device)


def _cut(values: Tensor) -> Tensor:
    """Clamp and cut without rounding: Pillow converts from C floats."""
    return cut(values.clamp_(0.0, 255.0))


def _grey(images: Tensor) -> Tensor:
    """Compute Pillow's luminance, that of a grey image itself: float32 (n, 1, H, W), whole levels."""
    return images.float() if images.shape[1] == 1 else luminance(images)


def mean_grey(images: Tensor) -> Tensor:
    """Compute the mean luminance of each image, rounded to a whole level: float32 (n,)."""
    # Sums of levels are kept in integers: float32 would not hold those of a large image.
    total = _grey(images).flatten(1).to(torch.int64).sum(1)
    count = images.shape[2] * images.shape[3]
    return torch.div(2 * total + count, 2 * count, rounding_mode="floor").float()


def _blend(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Blend from `plain` (factor 0) through the image (1) and beyond."""
    return _cut(plain + factor * (images - plain))


# Tables: (images, strengths) -> uint8 (n, 1 or 3, 256)


def invert(images: Tensor, _: Tensor) -> Tensor:
    return (255.0 - _levels(images)).to(torch.uint8).expand(len(images), 1, 256)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` bits; 8 and more change nothing."""
    step = torch.exp2((8.0 - bits).clamp(min=0.0))[:, None, None]
    return _cut(torch.floor(_levels(images) / step) * step)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from `threshold` on."""
    levels = _levels(images)
    return _cut(torch.where(levels < threshold[:, None, None], levels, 255.0 - levels))


def solarize_add(images: Tensor, amount: Tensor) -> Tensor:
    """Add `amount` to the levels below 128."""
    levels = _levels(images)
    return _cut(torch.where(levels < 128.0, levels + amount[:, None, None], levels))


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend from black (0) through the image (1) and beyond."""
    return _cut(_levels(images) * factor[:, None, None])


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend from the mean grey (0) through the image (1) and beyond."""
    return _blend(mean_grey(images)[:, None, None], _levels(images), factor[:, None, None])


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the whole range."""
    # Pillow works in doubles and cuts; in float32 a tenth of the tables would be off by a level.
    flat = images.flatten(2)
    low = flat.amin(2, keepdim=True).double()
    high = flat.amax(2, keepdim=True).double()
    # Not 255.0 / tensor: torch multiplies by the reciprocal there, with another result.
    scale = torch.full_like(low, 255.0) / (high - low)
    levels = _levels(images).double()
    stretched = levels * scale + -low * scale
    # A flat channel divides by zero; it keeps its levels.
    return torch.where(high > low, stretched, levels).clamp_(0.0, 255.0).to(torch.uint8)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Make the levels of each channel equally frequent."""
    flat = images.flatten(2)
    if _one_by_one(images):
        counts = [torch.bincount(plane, minlength=256) for plane in flat.flatten(0, 1)]
        histogram = torch.stack(counts).view(*flat.shape[:2], 256)
    else:
        ones = torch.ones((), dtype=torch.int64, device=images.device).expand_as(flat)
        histogram = ones.new_zeros(*flat.shape[:2], 256).scatter_add_(2, flat.long(), ones)
    last = histogram.gather(2, flat.amax(2, keepdim=True).long())
    step = (flat.shape[2] - last) // 255
    below = histogram.cumsum(2) - histogram
    spread = (below + step // 2) // step.clamp(min=1)
    levels = torch.arange(256, device=images.device)
    return torch.where(step > 0, spread, levels).clamp_(0, 255).to(torch.uint8)


def looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace each level by its entry: uint8 (n, 3, H, W) and (n, 3, 256) -> (n, 3, H, W)."""
    if _one_by_one(images):
        # A plane is a string of bytes, and Python translates those five times as fast as torch gathers.
        result = torch.empty_like(images)
        pairs = zip(result.flatten(0, 1).numpy(), images.flatten(0, 1).numpy(), strict=True)
        for (changed, plane), table in zip(pairs, tables.flatten(0, 1).numpy(), strict=True):
            changed[:] = np.frombuffer(plane.tobytes().translate(table.tobytes()), np.uint8).reshape(plane.shape)
        return result
    return tables.gather(2, images.flatten(2).long()).view_as(images)


# Operations that see a pixel's neighbours or its other channels: (images, strengths) -> images


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend from grey (0) through the image (1) and beyond; images of one channel stay as they are."""
    if images.shape[1] == 1:
        return images
    return _blend(_grey(images), images, factor[:, None, None, None])


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend from smoothed (0) through the image (1) and beyond; the outermost pixels stay as they are."""
    if min(images.shape[2:]) < 3:
        return images.clone()
    values = images.float()
    inner = values[:, :, 1:-1, 1:-1]
    # Pillow's SMOOTH: weights 1 around a 5, over 13, rounded.
    lines = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    around = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]
    smooth = ((around + 4.0 * inner) / 13.0 + 0.5).floor_()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _blend(smooth, inner, factor[:, None, None, None])
    return result


TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": invert,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "contrast": contrast,
    "brightness": brightness,
}
FILTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"colour": colour, "sharpness": sharpness}
