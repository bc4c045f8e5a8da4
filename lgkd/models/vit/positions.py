"""Build position embeddings of tokens.

Letters in shapes: T class tokens, N = h w patch tokens, D width.
"""

import torch
from torch import Tensor, nn

from lgkd._internal.tokens import sinusoidal
from lgkd.errors import ModelError


def learned_positions(class_tokens: int, grid: tuple[int, int], width: int, std: float) -> nn.Parameter:
    """Build a vector for every token, class tokens first, drawn from a normal distribution: (1,T+N,D)."""
    return nn.Parameter(torch.randn(1, class_tokens + grid[0] * grid[1], width) * std)


def sinusoidal_positions(class_tokens: int, grid: tuple[int, int], width: int) -> Tensor:
    """Compute sines and cosines of rows and columns, (1,T+N,D); class tokens have zeros.

    The formula is in `lgkd._internal.tokens`.

    Source: the form in two dimensions is the one of Chen et al., arXiv 2104.02057, of the authors' code of PoorViTs
    (arXiv 2501.06220) and of the simple ViT (arXiv 2205.01580), which divides by m - 1.

    Raises:
        ModelError: a width that is not a multiple of 4.
    """
    if width % 4:
        raise ModelError(f"embed_dim is {width}, and positions=sinusoidal needs a multiple of 4")
    patches_ND = sinusoidal(grid, width)
    return torch.cat([torch.zeros(class_tokens, width, dtype=torch.float64), patches_ND])[None].float()
