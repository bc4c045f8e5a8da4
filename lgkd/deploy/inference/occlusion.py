"""Compute occlusion maps: by how much a class loses when a part of the image is covered.

Source: Zeiler & Fergus, arXiv 1311.2901, section 4.2. The map needs no layer and no gradient, so that it is the same
measurement for every student, ONNX files included, and what it shows is an effect on the output. The covered part gets
the mean colour of the image.

Letters in shapes: B batch, K classes, H W image, g cells of the map along one side.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 8
"""Rows and columns of a map; a window covers two by two cells."""

_WINDOW = 2
_AT_ONCE = 16


@torch.no_grad()
def occlusion_map(
    logits: Callable[[Tensor], Tensor], image_13HW: Tensor, place: int, *, cells: int = CELLS, independent: bool = False
) -> Tensor:
    """Return the map of one class for one image: float32 (g,g) on the CPU, at least 0.

    A window of two by two cells is moved over the image by one cell. A cell's value is the mean, over the windows that
    cover it, of the loss in the class's logit minus the mean of all logits: a softmax does not depend on what all
    logits have in common, and in contrast to a confidence this does not saturate. Of several labels an image it is the
    loss in the logit alone. Gains are set to 0.

    Args:
        logits: normalised images (B,3,H,W) -> (B,K), finite.
        image_13HW: normalised.
        place: of the class among the logits.
        cells: g; fewer for an image of fewer pixels.
        independent: whether every logit is for a sigmoid of its own, of several labels an image.
    """
    height, width = image_13HW.shape[2:]
    cells = min(cells, height, width)
    steps = max(1, cells - _WINDOW + 1)
    mean_13 = image_13HW.mean((2, 3), keepdim=True)
    whole = _margin(logits(image_13HW), place, independent)[0]
    total, times = torch.zeros(cells, cells), torch.zeros(cells, cells)
    windows = [(row, column) for row in range(steps) for column in range(steps)]
    for start in range(0, len(windows), _AT_ONCE):
        some = windows[start : start + _AT_ONCE]
        covered = image_13HW.repeat(len(some), 1, 1, 1)
        for one, (row, column) in zip(covered, some, strict=True):
            one[:, _pixels(row, cells, height), _pixels(column, cells, width)] = mean_13[0]
        for lost, (row, column) in zip(whole - _margin(logits(covered), place, independent), some, strict=True):
            total[row : row + _WINDOW, column : column + _WINDOW] += lost
            times[row : row + _WINDOW, column : column + _WINDOW] += 1
    return (total / times).clamp(min=0)


def spread_over(map_gg: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate a map linearly between the centres of its cells: (g,g) -> (H,W)."""
    return F.interpolate(map_gg[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _pixels(cell: int, cells: int, side: int) -> slice:
    """Return the pixels along one side that a window covers which begins at a cell."""
    return slice(cell * side // cells, min(cell + _WINDOW, cells) * side // cells)


def _margin(logits_BK: Tensor, place: int, independent: bool) -> Tensor:
    """Return each image's logit of a class, minus the mean of its logits for a softmax: float32 (B,) on the CPU."""
    margins_B = logits_BK[:, place] if independent else logits_BK[:, place] - logits_BK.mean(1)
    return margins_B.float().cpu()
