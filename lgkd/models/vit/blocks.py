"""Build transformer blocks: attention and MLP with their norms and residual additions.

Letters in shapes: B batch, N tokens, D width.
"""

from timm.layers.drop import DropPath
from torch import Tensor, nn

from lgkd.models.vit.attention import Attention


class Mlp(nn.Module):
    """Apply two linear layers with GELU between them to each token: (B,N,D) -> (B,N,D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,N,D)."""
        return self.fc2(self.act(self.fc1(tokens_BND)))  # type: ignore[no-any-return]


class PreNormBlock(nn.Module):
    """Compute x = x + attention(norm1(x)); x = x + mlp(norm2(x)); (B,N,D) -> (B,N,D).

    Source: Dosovitskiy et al., arXiv 2010.11929.

    Args:
        attention: the attention of the block.
        width: D.
        hidden: width of the MLP inside.
        drop_path: fraction of the images for which a branch is skipped in training.
        eps: of the norms.
    """

    def __init__(self, attention: Attention, width: int, hidden: int, *, drop_path: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)
        self.drop_path: nn.Module = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,N,D), after both additions."""
        tokens_BND = tokens_BND + self.drop_path(self.attn(self.norm1(tokens_BND)))
        out: Tensor = tokens_BND + self.drop_path(self.mlp(self.norm2(tokens_BND)))
        return out


class CompactBlock(PreNormBlock):
    """Compute the compact transformers' block: x = norm2(x + attention(norm1(x))); x = x + mlp(x); (B,N,D) -> (B,N,D).

    The second norm is in the residual stream itself, so that the MLP adds to normalised values. Weights are those of
    `PreNormBlock`.

    Source: the authors' code of Hassani et al., arXiv 2104.05704.
    """

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return (B,N,D), after both additions."""
        tokens_BND = self.norm2(tokens_BND + self.drop_path(self.attn(self.norm1(tokens_BND))))
        out: Tensor = tokens_BND + self.drop_path(self.mlp(tokens_BND))
        return out
