"""Build the parts of DHVT: patches by convolutions, attention with interacting heads, convolutional feed-forward.

Each has the plain part of a ViT beside it, which replaces it in the paper's ablation.

Letters in shapes: B batch, P side of a patch, N tokens with the class token first, D width, A heads, E = D/A channels
of a head, h w grid of patches, H W image size.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError

Grid = tuple[int, int]


# Both directions use (B,h,w,D). With (B,D,hw) a batch of one image gets strides with which the backward pass of
# BatchNorm on a CPU silently computes wrong gradients (seen in torch 2.14).


def to_map(patches_BND: Tensor, grid: Grid) -> Tensor:
    """Arrange patches without the class token row by row: (B,hw,D) -> (B,D,h,w)."""
    batch, _, width = patches_BND.shape
    return patches_BND.reshape(batch, *grid, width).permute(0, 3, 1, 2)


def to_tokens(map_BDhw: Tensor) -> Tensor:
    """Flatten a map to tokens, the inverse of `to_map`: (B,D,h,w) -> (B,hw,D)."""
    return map_BDhw.permute(0, 2, 3, 1).flatten(1, 2)


class Affine(nn.Module):
    """Apply a scale and a shift to each channel: (B,C,h,w) -> (B,C,h,w). It starts as the identity.

    Source: DHVT, arXiv 2210.05958, "Sequential Overlapping Patch Embedding". Both are vectors, which are exempt from
    weight decay; in the authors' code they have four dimensions and decay.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, map_BChw: Tensor) -> Tensor:
        return map_BChw * self.scale[:, None, None] + self.shift[:, None, None]


def linear_patches(patch_size: int, width: int, in_chans: int = 3) -> nn.Sequential:
    """Build the plain ViT's patch embedding, one linear layer for every patch: (B,3,H,W) -> (B,D,H/P,W/P)."""
    cut = nn.Conv2d(in_chans, width, patch_size, stride=patch_size)
    return nn.Sequential(OrderedDict(proj=cut))


class SequentialOverlappingPatches(nn.Module):
    """Cut overlapping patches in steps (SOPE): (B,3,H,W) -> (B,D,H/P,W/P).

    Between two affine layers are log2(P) convolutions of 3x3 with stride 2, each with BatchNorm and all but the last
    with GELU. The last has D channels, each one before it half as many as the next.

    Source: DHVT, arXiv 2210.05958, "Sequential Overlapping Patch Embedding". Its equation has GELU after the last
    convolution too; the authors' code has it there only for P = 2, where there is no other, and so has this. The paper
    has P = 2, 4 and 16; other powers of two follow the same rule. BatchNorm as in the paper (the authors' code
    synchronises it over processes).

    Args:
        patch_size: P, a power of two.
        width: D, divisible by P/2.
        in_chans: channels of the images.

    Raises:
        ModelError: P is not a power of two, or D cannot be halved often enough.
    """

    def __init__(self, patch_size: int, width: int, in_chans: int = 3) -> None:
        super().__init__()
        if patch_size < 2 or patch_size & (patch_size - 1):
            raise ModelError(
                f"convolutions of stride 2 cannot cut patches of {patch_size} px; expected a power of two (2, 4, 8, "
                "16, ...): choose another patch_size, or patch_embedding=linear"
            )
        if width % (patch_size // 2):
            raise ModelError(
                f"a width of {width} cannot be halved down to the first convolution of patches of {patch_size} px; "
                f"expected a multiple of {patch_size // 2}"
            )
        steps = patch_size.bit_length() - 1
        widths = [in_chans, *(width >> (steps - step) for step in range(1, steps + 1))]
        layers: list[nn.Module] = []
        for step in range(steps):
            layers += [
                nn.Conv2d(widths[step], widths[step + 1], 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(widths[step + 1]),
            ]
            if step < steps - 1 or steps == 1:
                layers.append(nn.GELU())
        self.affine_in = Affine(in_chans)
        self.proj = nn.Sequential(*layers)
        self.affine_out = Affine(width)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        out: Tensor = self.affine_out(self.proj(self.affine_in(images_B3HW)))
        return out


class Attention(nn.Module):
    """Compute the plain ViT's multi-head attention: (B,N,D) -> (B,N,D).

    Source: Vaswani et al., arXiv 1706.03762, section 3.2, with biases everywhere as in ViT.

    Args:
        width: D.
        num_heads: A, a divisor of D.

    Attributes:
        fused_attn: use torch's fused function; False: two products with a softmax between them, the same numbers up
            to rounding.

    Raises:
        ModelError: the heads do not share the width evenly.
    """

    fused_attn: bool = True

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ModelError(
                f"{num_heads} heads cannot share a width of {width} evenly; give a num_heads that divides {width}"
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self._attend(tokens_BND)

    def _attend(self, tokens_BND: Tensor) -> Tensor:
        batch, count, width = tokens_BND.shape
        parts = self.qkv(tokens_BND).reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each (B,A,N,E)
        if self.fused_attn:
            seen_BANE = F.scaled_dot_product_attention(query, key, value)
        else:
            scores_BANN = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            seen_BANE = scores_BANN.softmax(dim=-1) @ value
        out: Tensor = self.proj(seen_BANE.transpose(1, 2).flatten(2))
        return out


class HeadInteractedAttention(Attention):
    """Attend with an additional token for every head (HI-MHSA): (B,N,D) -> (B,N,D).

    A head's token is made of the mean over all tokens of its own channels. The A head tokens follow the others in
    an otherwise plain attention; their outputs are averaged and added to the class token.

    Source: DHVT, arXiv 2210.05958, "Head-Interacted Multi-Head Self-Attention". From the authors' code: the mean
    includes the class token, one linear layer serves all heads, and the LayerNorm of the head tokens has PyTorch's own
    epsilon of 1e-5.

    Args:
        width: D.
        num_heads: A, a divisor of D.

    Raises:
        ModelError: the heads do not share the width evenly.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        head_width = width // num_heads
        self.head_proj = nn.Linear(head_width, width)
        self.head_norm = nn.LayerNorm(head_width)
        self.head_embed = nn.Parameter(torch.empty(1, num_heads, width))
        nn.init.trunc_normal_(self.head_embed, std=0.02)

    def head_tokens(self, tokens_BND: Tensor) -> Tensor:
        """Compute the head tokens (B,A,D)."""
        batch, _, width = tokens_BND.shape
        own_BAE = tokens_BND.mean(dim=1).reshape(batch, self.num_heads, width // self.num_heads)
        wide_BAAE = self.head_proj(own_BAE).reshape(batch, self.num_heads, self.num_heads, -1)
        spoken: Tensor = F.gelu(self.head_norm(wide_BAAE)).flatten(2) + self.head_embed
        return spoken

    def forward(self, tokens_BND: Tensor) -> Tensor:
        count = tokens_BND.shape[1]
        seen = self._attend(torch.cat([tokens_BND, self.head_tokens(tokens_BND)], dim=1))
        class_B1D = seen[:, :1] + seen[:, count:].mean(dim=1, keepdim=True)
        return torch.cat([class_B1D, seen[:, 1:count]], dim=1)


class Mlp(nn.Module):
    """Apply the plain ViT's feed-forward, two linear layers with GELU between, to every token: (B,N,D) -> (B,N,D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens_BND: Tensor, _grid: Grid) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens_BND)))
        return out


class AggregatingFeedForward(nn.Module):
    """Apply convolutions to the patches and a gate to the class token (DAFF): (B,N,D) -> (B,N,D).

    Patches are arranged on their grid and pass a 1x1 convolution, a depth-wise 3x3 convolution with a shortcut around
    it, and a 1x1 convolution back. The class token bypasses them: it is multiplied by a weight for each channel,
    computed by two linear layers from the mean of the new patches.

    Source: DHVT, arXiv 2210.05958, "Dynamic Aggregation Feed Forward". From the authors' code: the convolutions have
    biases though BatchNorm follows, and the weights of the class token pass no sigmoid, so that they may be of any size
    and sign. Grids need not be square here.

    Args:
        width: D, at least 4.
        hidden: channels between the 1x1 convolutions.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden), nn.GELU())
        self.neighbours = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden), nn.GELU()
        )
        self.narrow = nn.Sequential(nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width))
        self.gate = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))

    def forward(self, tokens_BND: Tensor, grid: Grid) -> Tensor:
        wide = self.widen(to_map(tokens_BND[:, 1:], grid))
        patches_BDhw = self.narrow(wide + self.neighbours(wide))
        gate_BD = self.gate(patches_BDhw.mean(dim=(2, 3)))
        return torch.cat([tokens_BND[:, :1] * gate_BD[:, None], to_tokens(patches_BDhw)], dim=1)
