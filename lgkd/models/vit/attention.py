"""Compute multi-head self-attention: plain, local (LSA), and with queries, keys or values of low rank.

Letters in shapes: B batch, N tokens, D width, H heads, d = D/H width of a head, r rank.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.vit.checks import share, whole


class Attention(nn.Module):
    """Compute multi-head self-attention over all tokens: (B,N,D) -> (B,N,D).

    Every head computes softmax(q k^T / sqrt(d)) v; the heads' outputs are concatenated and projected. The layers are
    `qkv`, D -> 3D in the order q, k, v with the heads of each one after the other, and `proj`, D -> D with bias, as in
    timm, so that weights can be exchanged. With a rank, `qkv` is a `LowRankQKV`.

    Source: Dosovitskiy et al., arXiv 2010.11929; the ranks: Wu, arXiv 2501.06220.

    Args:
        width: D.
        heads: H, a divisor of D.
        qkv_bias: add biases to q, k and v.
        q_rank, k_rank, v_rank: None or 0 for full matrices; otherwise r, at most D.
        dropout: fraction of the attention weights that are dropped in training.
        qkv: the layer D -> 3D, instead of the one above.

    Raises:
        ModelError: heads that do not divide the width, or a rank that a D x D matrix cannot have.
    """

    only_others: ClassVar[bool] = False
    """True if a token does not attend to itself."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        q_rank: int | None = None,
        k_rank: int | None = None,
        v_rank: int | None = None,
        dropout: float = 0.0,
        qkv: nn.Module | None = None,
    ) -> None:
        super().__init__()
        whole("embed_dim", width)
        if width % whole("num_heads", heads):
            raise ModelError(
                f"embed_dim is {width}, which {heads} heads do not divide; expected a multiple of num_heads"
            )
        self.num_heads = heads
        self.head_dim = width // heads
        self.fused_attn: bool = True
        self.dropout = share("attn_drop_rate", dropout)
        ranks = (q_rank, k_rank, v_rank)
        self.qkv: nn.Module
        if qkv is not None:
            self.qkv = qkv
        else:
            self.qkv = LowRankQKV(width, ranks, qkv_bias) if any(ranks) else nn.Linear(width, 3 * width, qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return each token's weighted sum of all values, projected, (B,N,D)."""
        query, key, value = self.heads(tokens_BND)
        mask = _others(query) if self.only_others else None
        dropout = self.dropout if self.training else 0.0
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=1.0)
        else:
            mixed = F.dropout(_weights(query, key, mask), dropout) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def heads(self, tokens_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, already multiplied by the scale of the softmax, keys and values, each (B,H,N,d)."""
        batch, count, _ = tokens_BND.shape
        qkv = self.qkv(tokens_BND).reshape(batch, count, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.scaled(query), key, value

    def scaled(self, query_BHNd: Tensor) -> Tensor:
        """Multiply queries by the scale of the softmax."""
        scaled: Tensor = query_BHNd * self.head_dim**-0.5
        return scaled

    def maps(self, tokens_BND: Tensor) -> Tensor:
        """Compute the attention weights (B,H,N,N) of these tokens, for analysis; rows sum to 1."""
        query, key, _ = self.heads(tokens_BND)
        return _weights(query, key, _others(query) if self.only_others else None)


class LocalAttention(Attention):
    """Compute locality self-attention (LSA): no token attends to itself, and each head learns its temperature.

    The logits' diagonal, the class token's place included, is left out of the softmax; the scale of the softmax is
    `temperature`, (H,1,1), which starts at d^-0.5. Both sharpen the attention to other tokens.

    Source: Lee et al., Vision Transformer for Small-Size Datasets, arXiv 2112.13492, and the authors' code, which
    writes -987654321 into the diagonal; the weights there are exactly 0 either way.

    Args:
        width, heads: D and H.
        options: those of `Attention`.
    """

    only_others: ClassVar[bool] = True

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        super().__init__(width, heads, **options)
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), self.head_dim**-0.5))

    def scaled(self, query_BHNd: Tensor) -> Tensor:
        # The fused function takes a number as its scale, not a tensor, so the queries carry it, in the queries'
        # own precision: otherwise they would not match keys and values under autocast.
        return query_BHNd * self.temperature.to(query_BHNd.dtype)


class LowRank(nn.Module):
    """Apply a linear map of at most rank r: (B,N,D) -> (B,N,D) by way of (B,N,r).

    Source: the authors' code of Wu, arXiv 2501.06220: no bias before the bottleneck, one after it where the full matrix
    would have one, nothing between.
    """

    def __init__(self, width: int, rank: int, bias: bool) -> None:
        super().__init__()
        if whole("a rank of q, k or v", rank) > width:
            raise ModelError(
                f"a rank of q, k or v is {rank}, expected at most embed_dim, {width}; 0 keeps the full matrix"
            )
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,N,D)."""
        return self.up(self.down(tokens_BND))  # type: ignore[no-any-return]


class LowRankQKV(nn.Module):
    """Compute queries, keys and values, each by a full matrix or one of low rank: (B,N,D) -> (B,N,3D).

    Args:
        width: D.
        ranks: of q, k and v; None or 0 for a full matrix.
        bias: add biases.
    """

    def __init__(self, width: int, ranks: tuple[int | None, int | None, int | None], bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (
            LowRank(width, rank, bias) if rank else nn.Linear(width, width, bias) for rank in ranks
        )

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return q, k and v of each token, concatenated, (B,N,3D)."""
        return torch.cat([self.q(tokens_BND), self.k(tokens_BND), self.v(tokens_BND)], dim=-1)


def _others(query_BHNd: Tensor) -> Tensor:
    """Build the mask (N,N) of all tokens but the querying one."""
    return ~torch.eye(query_BHNd.shape[2], dtype=torch.bool, device=query_BHNd.device)


def _weights(query_BHNd: Tensor, key_BHNd: Tensor, mask_NN: Tensor | None) -> Tensor:
    """Compute softmax(q k^T), (B,H,N,N)."""
    logits = query_BHNd @ key_BHNd.transpose(-2, -1)
    if mask_NN is not None:
        logits = logits.masked_fill(~mask_NN, float("-inf"))
    return logits.softmax(dim=-1)
