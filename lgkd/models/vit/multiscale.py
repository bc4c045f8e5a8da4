"""Compute queries, keys and values at three scales, by convolutions over the patches (LIFE).

Letters in shapes: B batch, T prefix tokens, N = h w patch tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.vit.checks import whole

_SCALES = 3


class MultiScaleQKV(nn.Module):
    """Compute queries, keys and values of which each third has another receptive field: (B,T+N,D) -> (B,T+N,3D).

        Y1 = Linear(X),   Y2 = pointwise(depthwise 3x3 (Y1)),   Y3 = pointwise(depthwise 5x5 (Y2)),   each D wide
        q = [Y1[:D/3], Y2[:D/3], Y3[:D/3]]

    k and v likewise of the second and last third of each Y. Convolutions are over the grid of patches, padded with
    zeros, without bias; prefix tokens take the pointwise parts alone. A block has 34 D weights more than with one
    linear layer, and 2 D biases less.

    Source: Arani et al., LIFE, arXiv 2305.08551, and the authors' code (166b0ce). There keys of prefix tokens hold Y1
    three times, unlike their queries and values; here they are made as these.

    Args:
        width: D, a multiple of 3.
        grid: (h, w).
        prefix: T.
        bias: of the linear layer.

    Raises:
        ModelError: a width that is not a multiple of 3.
    """

    def __init__(self, width: int, grid: tuple[int, int], prefix: int, bias: bool) -> None:
        super().__init__()
        if whole("embed_dim", width) % _SCALES:
            raise ModelError(f"embed_dim is {width}, and qkv=multiscale needs a multiple of {_SCALES}, like 192")
        self.grid, self.prefix = grid, prefix
        self.linear = nn.Linear(width, width, bias)
        self.second, self.third = SeparableConv(width, 3), SeparableConv(width, 5)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return q, k and v of each token, concatenated, (B,T+N,3D)."""
        first = self.linear(tokens_BND)
        scales = [first.chunk(_SCALES, dim=-1)]
        prefix, patches = first[:, : self.prefix], first[:, self.prefix :]
        maps = patches.transpose(1, 2).unflatten(2, self.grid)
        for convolution in (self.second, self.third):
            maps = convolution(maps)
            prefix = F.linear(prefix, convolution.pointwise.weight.flatten(1))
            scales.append(torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1).chunk(_SCALES, dim=-1))
        return torch.cat([scale[part] for part in range(3) for scale in scales], dim=-1)


class SeparableConv(nn.Module):
    """Apply a depthwise and then a pointwise convolution: (B,D,h,w) -> (B,D,h,w)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, maps_BDhw: Tensor) -> Tensor:
        """Return (B,D,h,w)."""
        return self.pointwise(self.depthwise(maps_BDhw))  # type: ignore[no-any-return]
