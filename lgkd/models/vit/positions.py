"""Build position embeddings of tokens.

Letters in shapes: T class tokens, N = h w patch tokens, D width.
"""

import torch
from torch import Tensor, nn

from lgkd.errors import ModelError


def learned_positions(class_tokens: int, grid: tuple[int, int], width: int, std: float) -> nn.Parameter:
    """Build a vector for every token, class tokens first, drawn from a normal distribution: (1,T+N,D)."""
    return nn.Parameter(torch.randn(1, class_tokens + grid[0] * grid[1], width) * std)


def sinusoidal_positions(class_tokens: int, grid: tuple[int, int], width: int) -> Tensor:
    """Compute sines and cosines of rows and columns, (1,T+N,D); class tokens have zeros.

    With m = D/4 and the frequencies w_k = 10000^(-k/m), k = 0 ... m-1, the patch in row y and column x has

        [ sin(y w_k), cos(y w_k), sin(x w_k), cos(x w_k) ], each for all k.

    Source: the form in two dimensions is the one of Chen et al., arXiv 2104.02057, of the authors' code of PoorViTs
    (arXiv 2501.06220) and of the simple ViT (arXiv 2205.01580), which divides by m - 1.

    Raises:
        ModelError: a width that is not a multiple of 4.
    """
    if width % 4:
        raise ModelError(f"embed_dim is {width}, and positions=sinusoidal needs a multiple of 4")
    many = width // 4
    frequencies = 10000.0 ** (-torch.arange(many, dtype=torch.float64) / many)
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * frequencies for side in grid)
    by_row = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    by_column = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(grid[0], -1, -1)
    patches_ND = torch.cat([by_row, by_column], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(class_tokens, width, dtype=torch.float64), patches_ND])[None].float()
