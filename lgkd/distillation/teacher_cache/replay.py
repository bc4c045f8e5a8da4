"""Replay crop, flip and mixing of the student's images on a teacher's cached maps.

Letters in shapes: B batch, C channels, h w map size, H W image size.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.device import sent


def replay(map_BChw: Tensor, boxes: NDArray[np.int64], mirrored: NDArray[np.bool_], sizes: NDArray[np.int64]) -> Tensor:
    """Crop each map as its image, resize it back (bilinear, as images are without antialias), and flip it.

    Exact as an operation on maps: a whole box changes nothing, a box whose edges are between the map's cells is a
    crop and a resize, and nothing outside the box is read. It differs from a CNN's features of the cropped image: the
    CNN receives the crop enlarged, and is in general not symmetric.

    Args:
        map_BChw: maps of the whole images, (B,C,h,w).
        boxes: (B,4) top, left, height and width in pixels of the image.
        mirrored: (B,) True for images that are flipped horizontally.
        sizes: (B,2) heights and widths of the images, in pixels.
    """
    grid = (map_BChw.shape[2], map_BChw.shape[3])
    down, across = (_centres(boxes, sizes, axis, cells) for axis, cells in enumerate(grid))
    across = np.where(mirrored[:, None], across[:, ::-1], across)
    # grid_sample counts from -1 at the outer edge of the first cell to 1 at that of the last.
    rows, columns = (
        sent(2.0 * place / cells - 1.0, map_BChw.device, map_BChw.dtype)
        for place, cells in zip((down, across), grid, strict=True)
    )
    places = torch.stack(
        [columns[:, None, :].expand(-1, grid[0], -1), rows[:, :, None].expand(-1, -1, grid[1])], dim=-1
    )
    return F.grid_sample(map_BChw, places, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(boxes: NDArray[np.int64], sizes: NDArray[np.int64], axis: int, cells: int) -> NDArray[np.float64]:
    """Compute the positions of the cropped map's cells in the whole map, in cells: (B, cells)."""
    scale = cells / sizes[:, axis]
    start, length = boxes[:, axis] * scale, boxes[:, axis + 2] * scale
    place = start[:, None] + (np.arange(cells) + 0.5) / cells * length[:, None]
    # Between the centres of the box's first and last cell, so that nothing outside its edge is read.
    margin = np.minimum(0.5, length / 2)[:, None]
    return np.clip(place, start[:, None] + margin, (start + length)[:, None] - margin)


def mix(values: Tensor, partner: Tensor, kept_B1HW: Tensor) -> Tensor:
    """Mix the teacher's features of two images as the images were mixed.

    Maps are mixed cell by cell, by the mean of the pixel weights over the cell; logits and embeddings by the mean over
    the image. This equals the features of the mixed image for a linear teacher without overlap between cells.

    Args:
        values, partner: (B,C,h,w) or (B,D) of the samples and of their mixing partners.
        kept_B1HW: weight of each pixel's own image, from `Mixing.kept`.
    """
    grid = (values.shape[2], values.shape[3]) if values.ndim == 4 else (1, 1)
    weight = F.adaptive_avg_pool2d(kept_B1HW, grid)
    if values.ndim == 2:
        weight = weight.flatten(1)
    return torch.lerp(partner, values, weight.to(values.dtype))
