"""Select tokens by number, and compute fixed positions of a grid of patches.

Letters in shapes: B batch, N = h w patches, M selected ones, D width.
"""

import torch
from torch import Tensor


def sinusoidal(grid: tuple[int, int], width: int) -> Tensor:
    """Compute sines and cosines of rows and columns, (N,D) in double precision; D is a multiple of 4.

    With m = D/4 and the frequencies w_k = 10000^(-k/m), k = 0 ... m-1, the patch in row y and column x has

        [ sin(y w_k), cos(y w_k), sin(x w_k), cos(x w_k) ], each for all k.
    """
    many = width // 4
    frequencies = 10000.0 ** (-torch.arange(many, dtype=torch.float64) / many)
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * frequencies for side in grid)
    by_row = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    by_column = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(grid[0], -1, -1)
    return torch.cat([by_row, by_column], dim=2).flatten(0, 1)


def gather_tokens(tokens_BND: Tensor, numbers_BM: Tensor) -> Tensor:
    """Select tokens by their numbers: (B,N,D) and int64 (B,M) -> (B,M,D)."""
    return tokens_BND.gather(1, numbers_BM.unsqueeze(-1).expand(-1, -1, tokens_BND.shape[2]))
