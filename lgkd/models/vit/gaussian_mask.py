"""Multiply attention logits by a learned mixture of Gaussians over the distance of patches.

Letters in shapes: B batch, T prefix tokens, N = h w patch tokens, D width, H heads, G Gaussians, U distinct distances.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lgkd.models.vit.attention import Attention
from lgkd.models.vit.checks import whole

_EPS = 1e-5


class GaussianMaskAttention(Attention):
    """Compute self-attention whose logits are multiplied by a mask of each head: (B,T+N,D) -> (B,T+N,D).

    With the distance r of two patches on the grid,

        weights = softmax(M q k^T / sqrt(d)),   M[i,j] = sum_g alpha_g exp(-r[i,j]^2 / 2 / (sigma_g^2 + 1e-5))

    where alpha and sigma, (G,H), are learned. Logits from or to a prefix token are unchanged, so that with
    pooling=class the mask of the last block has no effect: use pooling=mean, as the authors. A mask multiplies the
    logits, which torch's fused attention cannot do, so that the weights (B,H,T+N,T+N) are in memory.

    Source: Tan et al., RetNet viewed through convolution, arXiv 2309.05375, and the authors' code: G = 5, sigma drawn
    from a normal distribution of mean and deviation 10, alpha of deviation 2. That code takes a root of exp(-r^2),
    which underflows to 0 beyond 10 patches; here the exponents are multiplied. Prefix tokens, which it lacks, and no
    weight decay of alpha and sigma are chosen here.

    Args:
        width, heads: D and H.
        grid: (h, w).
        prefix: T.
        gaussians: G.
        options: those of `Attention`.

    Raises:
        ModelError: no Gaussians.
    """

    def __init__(
        self, width: int, heads: int, *, grid: tuple[int, int], prefix: int, gaussians: int = 5, **options: Any
    ) -> None:
        super().__init__(width, heads, **options)
        self.prefix = prefix
        self.sigma = nn.Parameter(10 + 10 * torch.randn(whole("gaussians", gaussians), heads))
        self.alpha = nn.Parameter(2 * torch.randn(gaussians, heads))
        self.attn_drop = nn.Dropout(self.dropout)
        rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        places_N2 = torch.stack([rows.flatten(), columns.flatten()], dim=1)
        squares_NN = (places_N2[:, None] - places_N2[None]).square().sum(dim=2)
        distinct_U, index_NN = torch.unique(squares_NN, return_inverse=True)
        self.register_buffer("squares", distinct_U.float(), persistent=False)
        self.register_buffer("index", index_NN, persistent=False)
        self.squares: Tensor
        self.index: Tensor

    def no_weight_decay(self) -> set[str]:
        """Return the names of the weights that do not decay: a width of 0 has no meaning."""
        return {"sigma", "alpha"}

    def mask(self) -> Tensor:
        """Compute M of every head, (H,T+N,T+N), 1 for prefix tokens."""
        spread_GH1 = (self.sigma.square() + _EPS)[:, :, None]
        by_distance_HU = (self.alpha[:, :, None] * (-self.squares / 2 / spread_GH1).exp()).sum(dim=0)
        mask = by_distance_HU[:, self.index]
        return nn.functional.pad(mask, (self.prefix, 0, self.prefix, 0), value=1.0) if self.prefix else mask

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return each token's weighted sum of all values, projected, (B,T+N,D)."""
        query, key, value = self.heads(tokens_BND)
        mixed = self.attn_drop(self._masked(query, key)) @ value
        return self.proj(mixed.transpose(1, 2).reshape(tokens_BND.shape))  # type: ignore[no-any-return]

    def maps(self, tokens_BND: Tensor) -> Tensor:
        """Compute the attention weights (B,H,T+N,T+N) of these tokens, for analysis; rows sum to 1."""
        query, key, _ = self.heads(tokens_BND)
        return self._masked(query, key)

    def _masked(self, query_BHNd: Tensor, key_BHNd: Tensor) -> Tensor:
        logits = query_BHNd @ key_BHNd.transpose(-2, -1)
        return (logits * self.mask().to(logits.dtype)).softmax(dim=-1)
