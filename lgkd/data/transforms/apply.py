"""Apply a drawn layer on a CPU: images are grouped by operation, and visited one by one only where they are large.

A device applies all layers at once, see `apply_device`.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms import affine, color, color_cpu
from lgkd.data.transforms.device import portions, put_back, sent
from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, Layer
from lgkd.data.transforms.resized_crop import Interpolation

_Kinds = NDArray[np.int64]
_Strengths = NDArray[np.float64]

# Operations of a group are applied together.
_GROUPS = (
    tuple(color.TABLES),
    ("colour",),
    ("sharpness",),
    ("shear_x", "translate_x"),
    ("shear_y", "translate_y"),
    ("rotate",),
)


def apply_layer(images: Tensor, layer: Layer, fill: affine.Fill, interpolation: Interpolation) -> None:
    """Change uint8 images (B, 3, H, W), on the CPU, in place.

    Args:
        fill: levels of the area that a geometric operation uncovers.
        interpolation: of the geometric operations.
    """
    if images.shape[2] * images.shape[3] >= color_cpu.LARGE:
        for place in np.flatnonzero(layer.kind != UNTOUCHED).tolist():
            _change_alone(images[place : place + 1], layer, place, fill, interpolation)
        return
    # In the order of their kinds, so that each kind is one run within its group.
    groups = [
        (group, np.concatenate([np.flatnonzero(layer.kind == KINDS.index(name)) for name in group]))
        for group in _GROUPS
    ]
    order = np.concatenate([members for _, members in groups])
    rows, amounts = sent(order, images.device), sent(layer.strength[order], images.device, torch.float32)
    done = 0
    for group, members in groups:
        for part in portions(len(members), images[0].numel(), images.device):
            places, here = members[part], slice(done + part.start, done + part.stop)
            kinds, strengths = layer.kind[places], layer.strength[places]
            chosen = images.index_select(0, rows[here])
            changed = _changed(chosen, group, kinds, strengths, amounts[here], fill, interpolation)
            put_back(images, places, changed)
        done += len(members)


def _change_alone(image: Tensor, layer: Layer, place: int, fill: affine.Fill, interpolation: Interpolation) -> None:
    """Change one large image (1, 3, H, W) in place."""
    name, strength = KINDS[layer.kind[place]], float(layer.strength[place])
    if name in color_cpu.RECOLOURED:
        color_cpu.RECOLOURED[name](image, strength)
    elif name in color_cpu.TRANSLATED:
        color_cpu.translate(image, strength, color_cpu.TRANSLATED[name], fill, interpolation)
    else:
        which = slice(place, place + 1)
        amount = sent(layer.strength[which], image.device, torch.float32)
        image.copy_(_changed(image, (name,), layer.kind[which], layer.strength[which], amount, fill, interpolation))


def _changed(
    images: Tensor,
    group: tuple[str, ...],
    kinds: _Kinds,
    strengths: _Strengths,
    amounts: Tensor,
    fill: affine.Fill,
    interpolation: Interpolation,
) -> Tensor:
    """Change images of one group; `amounts` are their strengths in float32 on the images' device."""
    first = group[0]
    if first in color.TABLES:
        return _looked_up(images, group, kinds, amounts)
    if first in color.FILTERS:
        return color.FILTERS[first](images, amounts)
    if first == "rotate":
        return affine.rotate(images, strengths, fill, interpolation)
    slide: Callable[..., Tensor] = affine.slide_x if first == "shear_x" else affine.slide_y
    shears = kinds == KINDS.index(first)
    slope, share = np.where(shears, strengths, 0.0), np.where(shears, 0.0, strengths)
    return slide(images, slope, share, fill, interpolation)


def _looked_up(images: Tensor, group: tuple[str, ...], kinds: _Kinds, amounts: Tensor) -> Tensor:
    """Look up every image in the table of its own kind: tables are made kind by kind, and read all at once."""
    counts = [int((kinds == KINDS.index(name)).sum()) for name in group]
    runs = zip(group, torch.split(images, counts), torch.split(amounts, counts), strict=True)
    tables = [color.TABLES[name](run, amount).expand(-1, images.shape[1], -1) for name, run, amount in runs if len(run)]
    return color.looked_up(images, torch.cat(tables))
