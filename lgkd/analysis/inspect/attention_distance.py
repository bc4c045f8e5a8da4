"""Compute the mean attention distance of a transformer.

Letters in shapes: B batch, H heads, N queries, M keys, h w grids of patches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lgkd.distillation.taps import Fold, Tap, find_fold
from lgkd.errors import TapError

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PatchAttention:
    """Hold the attention weights between the patches of an image.

    Attributes:
        weights: (B,H,N,M), rows sum to 1; N = rows x columns of `grid`, M of `key_grid`.
        grid: of the queries.
        key_grid: of the keys; coarser than `grid` where keys are reduced, as in PVT.
    """

    weights: Tensor
    grid: Grid
    key_grid: Grid


def between_patches(weights_BHNM: Tensor, output: Tensor, image_size: Grid, prefix_hint: int | None) -> PatchAttention:
    """Extract the attention among patches, without class tokens and other prefix tokens.

    Each row is scaled so that it sums to 1 again.

    Args:
        weights_BHNM: of one block.
        output: of that block, which determines the number of its prefix tokens and its grid.
        image_size: (height, width) in pixels.
        prefix_hint: the number of prefix tokens that the model as a whole reports.

    Raises:
        TapError: the tokens form no grid of patches; the message says why.
    """
    images = output.shape[0]
    if weights_BHNM.shape[0] != images:
        raise TapError("it attends within windows, whose tokens do not see the whole image")
    fold = find_fold(Tap("it"), output.shape, image_size=image_size, images=images, prefix_hint=prefix_hint)
    grid = _grid(fold, output)
    queries, keys = weights_BHNM.shape[2:]
    patches = grid[0] * grid[1]
    if queries < fold.prefix + patches:
        raise TapError(f"{queries} tokens ask, expected the {patches} patches that it outputs")
    if keys == queries:
        key_grid, key_prefix = grid, fold.prefix
    else:
        key_grid, key_prefix = _reduced(images, keys, image_size, fold.prefix)
    # DHVT's heads join as tokens after the patches.
    rows = slice(fold.prefix, fold.prefix + patches)
    columns = slice(key_prefix, key_prefix + key_grid[0] * key_grid[1])
    among = weights_BHNM[:, :, rows, columns]
    return PatchAttention(among / among.sum(dim=-1, keepdim=True).clamp(min=1e-12), grid, key_grid)


def _reduced(images: int, keys: int, image_size: Grid, prefix: int) -> tuple[Grid, int]:
    """Return grid and number of prefix tokens of keys that are fewer than the queries."""
    for first in dict.fromkeys((prefix, 0)):
        try:
            fold = find_fold(Tap("its keys", prefix=first), (images, keys, 1), image_size=image_size)
        except TapError:
            continue
        assert fold.grid is not None
        return fold.grid, first
    raise TapError(f"it looks at {keys} keys, which form no grid with the proportions of the image")


def _grid(fold: Fold, output: Tensor) -> Grid:
    if fold.grid is not None:
        return fold.grid
    height, width = fold(output).shape[-2:]
    return int(height), int(width)


def distances(grid: Grid, key_grid: Grid, image_size: Grid) -> Tensor:
    """Compute the distances between the centres of patches, in pixels: float64 (N,M), row by row."""
    asks, seen = _centres(grid, image_size), _centres(key_grid, image_size)
    return torch.cdist(asks, seen, compute_mode="donot_use_mm_for_euclid_dist")


def _centres(grid: Grid, image_size: Grid) -> Tensor:
    """Return (N,2): rows and columns in pixels."""
    places = [(torch.arange(count, dtype=torch.float64) + 0.5) * side / count for count, side in
              zip(grid, image_size, strict=True)]  # fmt: skip
    return torch.cartesian_prod(*places).view(-1, 2)


def mean_distance(seen: PatchAttention, image_size: Grid) -> Tensor:
    """Compute the mean attention distance of every head, in pixels of the student's images: float64 (H,).

    For each patch the distances to all patches are averaged by its attention weights; then over patches and images.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929, section 4.5 and appendix D.7. The paper
    does not state how the class token is treated; here it is excluded on both sides.
    """
    apart = distances(seen.grid, seen.key_grid, image_size).to(seen.weights.device)
    return torch.einsum("bhnm,nm->h", seen.weights.double(), apart) / (seen.weights.shape[0] * len(apart))


def even_distance(grid: Grid, key_grid: Grid, image_size: Grid) -> float:
    """Compute the mean attention distance of a head that attends to all patches equally, in pixels."""
    return float(distances(grid, key_grid, image_size).mean())
