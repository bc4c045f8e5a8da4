"""Build T2T-ViT: tokens gathered twice from overlapping neighbourhoods, and a plain, narrow ViT over them.

Letters in shapes: B batch, K classes, H W image size, h w grid, C channels, N tokens, P numbers in a patch, D width,
R random features.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.factory import ImageSize, pair

_KERNELS = (7, 3, 3)
_STRIDES = {16: (4, 2, 2), 8: (2, 2, 2), 4: (2, 2, 1)}
_TOKEN_WIDTH = 64
_norm = partial(nn.LayerNorm, eps=1e-6)


class T2TViT(nn.Module):
    """Classify images by T2T-ViT: (B,3,H,W) -> (B,K). Defaults are those of T2T-ViT-7.

    The image becomes tokens in three soft splits, see `TokensToToken`; a class token and fixed sinusoidal positions
    are added, and `blocks` of a plain ViT follow, without biases in queries, keys and values. The class token is
    classified after a LayerNorm. Every block outputs (B,1+N,D) with N = (H / patch_size) (W / patch_size).

    With 100 classes at 224 px T2T-ViT-7 has 4,078,922 parameters and T2T-ViT-14 21,199,050. As in the authors' count,
    54,528 and 79,744 of these are constants: the positions and the two random projections of the performers. They are
    parameters that take no gradient, so that they are saved with the weights and never change.

    Source: Yuan et al., Tokens-to-Token ViT, ICCV 2021 (arXiv 2101.11986), section 3, with performers in the soft
    splits; the settings (epsilon 1e-6 in every LayerNorm, no dropout) are those of Locality Guidance, arXiv 2207.10026.
    The strides for small images are lgkd's; the source has only 16 pixels a token.

    Args:
        num_classes: K, at least 1.
        image_size: pixels, one number or (height, width); multiples of `patch_size`.
        patch_size: pixels between neighbouring tokens: 16 (soft splits with the strides 4, 2, 2), 8 (2, 2, 2) or
            4 (2, 2, 1). 32 px images want 4, 64 px images 8 or 4: a grid of 8 x 8 or finer.
        embed_dim: D, a multiple of `num_heads`.
        depth: number of blocks.
        num_heads: of each block's attention.
        mlp_ratio: the hidden width of a block's MLP is this times D.
        drop_path_rate: fraction of the samples whose last block's branches are skipped in training, growing
            linearly from 0 at the first block; in [0, 1).
        in_chans: channels of the images.

    Raises:
        ModelError: sizes that do not fit each other, or images of another size than the model is made for.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        num_classes: int,
        image_size: ImageSize = 224,
        *,
        patch_size: int = 16,
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        _check(num_classes, patch_size, embed_dim, depth, num_heads, mlp_ratio, drop_path_rate)
        self.image_size = pair(image_size)
        self.lgkd_patch_size, self.lgkd_patch_sizes = patch_size, tuple(_STRIDES)
        self.tokens = TokensToToken(embed_dim, self.image_size, patch_size, in_chans)
        height, width = self.tokens.grids[-1]
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sinusoids(1 + height * width, embed_dim)[None], requires_grad=False)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=False, drop_path=rate, norm_layer=_norm)  # type: ignore[arg-type]
            for rate in rates
        )
        self.norm = _norm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        if images_B3HW.shape[-2:] != self.image_size:
            raise ModelError(
                f"T2T-ViT: images are {images_B3HW.shape[-2]} x {images_B3HW.shape[-1]} pixels, expected "
                f"{self.image_size[0]} x {self.image_size[1]}; make the model with that image_size"
            )
        patches_BND = self.tokens(images_B3HW)
        class_token_B1D = self.cls_token.expand(patches_BND.shape[0], -1, -1)
        tokens_BND = torch.cat([class_token_B1D, patches_BND], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.head(self.norm(tokens_BND[:, 0]))  # type: ignore[no-any-return]


class TokensToToken(nn.Module):
    """Convert images to tokens in three soft splits, a performer after the first two: (B,3,H,W) -> (B,N,D).

    Each split gathers overlapping neighbourhoods of 7 x 7, 3 x 3 and 3 x 3 places into one token each; a performer
    brings the tokens of the first two to a width of 64, a linear layer those of the third to D. `grids` are the (h,w)
    after each split.

    Source: arXiv 2101.11986, section 3.1.

    Raises:
        ModelError: the image's sides are not multiples of `patch_size`.
    """

    def __init__(self, width: int, image_size: tuple[int, int], patch_size: int, in_chans: int = 3) -> None:
        super().__init__()
        if min(image_size) < 1 or image_size[0] % patch_size or image_size[1] % patch_size:
            raise ModelError(
                f"T2T-ViT: images of {image_size[0]} x {image_size[1]} pixels do not divide into a grid of tokens, one "
                f"for every {patch_size} pixels; choose an image_size whose sides are multiples of {patch_size}, or "
                f"another patch_size ({', '.join(map(str, _STRIDES))})"
            )
        self.strides = _STRIDES[patch_size]
        self.grids: list[tuple[int, int]] = []
        height, wide = image_size
        for stride in self.strides:
            height, wide = height // stride, wide // stride
            self.grids.append((height, wide))
        self.performer1 = Performer(in_chans * _KERNELS[0] ** 2, _TOKEN_WIDTH)
        self.performer2 = Performer(_TOKEN_WIDTH * _KERNELS[1] ** 2, _TOKEN_WIDTH)
        self.project = nn.Linear(_TOKEN_WIDTH * _KERNELS[2] ** 2, width)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return tokens (B,N,D), row by row."""
        first, second, third = self.strides
        tokens_BND = self.performer1(soft_split(images_B3HW, _KERNELS[0], first))
        map_BDhw = _laid_out(tokens_BND, self.grids[0])
        tokens_BND = self.performer2(soft_split(map_BDhw, _KERNELS[1], second))
        map_BDhw = _laid_out(tokens_BND, self.grids[1])
        return self.project(soft_split(map_BDhw, _KERNELS[2], third))  # type: ignore[no-any-return]


def _laid_out(tokens_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens_BND.transpose(1, 2).reshape(tokens_BND.shape[0], tokens_BND.shape[2], *grid)


def soft_split(map_BChw: Tensor, kernel: int, stride: int) -> Tensor:
    """Unfold overlapping neighbourhoods into tokens: (B,C,h,w) -> (B,N,P), P = C kernel^2.

    N is (h / stride) (w / stride). The map is padded by (kernel - stride + 1) // 2 zeros on every side (2, 1, 1 in the
    source), so that a grid that the stride divides stays whole. Within a token the channel changes slowest,
    then the row, then the column.
    """
    padding = (kernel - stride + 1) // 2
    return F.unfold(map_BChw, kernel, padding=padding, stride=stride).transpose(1, 2)


class Performer(nn.Module):
    """Apply a transformer layer that is linear in the number of tokens and changes their width: (B,N,P) -> (B,N,D).

    `PerformerAttention` of the normed tokens, then an MLP with hidden width D around which there is a shortcut.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.attn = PerformerAttention(width_in, width)
        self.norm2 = _norm(width)
        self.mlp = Mlp(width, width)

    def forward(self, tokens_BNP: Tensor) -> Tensor:
        tokens_BND: Tensor = self.attn(self.norm1(tokens_BNP))
        return tokens_BND + self.mlp(self.norm2(tokens_BND))  # type: ignore[no-any-return]


class PerformerAttention(nn.Module):
    """Attend with one head through random features, with the values as its shortcut: (B,N,P) -> (B,N,D).

    `v + proj(random_feature_attention(q, k, v))` with R = D / 2. The projection `features` (R,D) is drawn once, with
    orthogonal rows of length sqrt(R), and not learned. There is no softmax, so there is nothing to fuse.

    Source: Choromanski et al., Rethinking Attention with Performers, ICLR 2021 (arXiv 2009.14794), as used by
    arXiv 2101.11986. The length sqrt(R) of the rows, instead of sqrt(D) as in theory, is that of the authors' code.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        count = width // 2
        self.qkv = nn.Linear(width_in, 3 * width)
        self.proj = nn.Linear(width, width)
        drawn_RD = nn.init.orthogonal_(torch.empty(count, width)) * math.sqrt(count)
        self.features = nn.Parameter(drawn_RD, requires_grad=False)

    def forward(self, tokens_BNP: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens_BNP).chunk(3, dim=-1)
        # Thousands of terms are summed, and exponentials reach 1e7: too much for half precision.
        with torch.autocast(tokens_BNP.device.type, enabled=False):
            mixed_BND = random_feature_attention(queries, keys, values, self.features)
        return values + self.proj(mixed_BND.to(values.dtype))  # type: ignore[no-any-return]


def random_feature_attention(queries_BND: Tensor, keys_BND: Tensor, values_BND: Tensor, features_RD: Tensor) -> Tensor:
    """Compute attention from products of positive random features, (B,N,D), in single precision at least.

        phi(u) = exp(W u - |u|^2 / 2) / sqrt(R)
        y_i    = (sum over j of (phi(q_i) . phi(k_j)) v_j) / (sum over j of phi(q_i) . phi(k_j) + 1e-8)

    W are `features_RD`. Both sums over j are computed once for all i. No exponent exceeds |W_r|^2 / 2, so that nothing
    overflows for long queries and keys.
    """
    dtype = torch.promote_types(queries_BND.dtype, torch.float32)
    weights_RD = features_RD.to(dtype)
    queries_BNR = _positive_features(queries_BND.to(dtype), weights_RD)
    keys_BNR = _positive_features(keys_BND.to(dtype), weights_RD)
    gathered_BRD = keys_BNR.transpose(1, 2) @ values_BND.to(dtype)
    totals_BN1 = queries_BNR @ keys_BNR.sum(dim=1).unsqueeze(2)
    return (queries_BNR @ gathered_BRD) / (totals_BN1 + 1e-8)


def _positive_features(vectors_BND: Tensor, weights_RD: Tensor) -> Tensor:
    lengths_BN1 = vectors_BND.square().sum(dim=-1, keepdim=True)
    return (vectors_BND @ weights_RD.T - lengths_BN1 / 2).exp() / math.sqrt(len(weights_RD))


def sinusoids(count: int, width: int) -> Tensor:
    """Compute fixed positions (count, width): sin(p r_i) at 2i and cos(p r_i) at 2i + 1 for p = 0, 1, ...

    r_i = 10000^(-2i / width). Source: Vaswani et al., arXiv 1706.03762, section 3.5.
    """
    places = torch.arange(count, dtype=torch.float64)[:, None]
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = places * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


def _check(
    classes: int, patch_size: int, width: int, depth: int, heads: int, mlp_ratio: float, drop_path_rate: float
) -> None:
    if classes < 1:
        raise ModelError(f"T2T-ViT: num_classes is {classes}, expected at least 1")
    if patch_size not in _STRIDES:
        raise ModelError(f"T2T-ViT: patch_size is {patch_size}, expected one of {', '.join(map(str, _STRIDES))}")
    if min(width, depth, heads, mlp_ratio) <= 0:
        raise ModelError(
            f"T2T-ViT: embed_dim {width}, depth {depth}, num_heads {heads}, mlp_ratio {mlp_ratio}; expected all above 0"
        )
    if width % heads:
        raise ModelError(
            f"T2T-ViT: embed_dim is {width}, which {heads} heads do not divide; choose a multiple of num_heads"
        )
    if not 0 <= drop_path_rate < 1:
        raise ModelError(f"T2T-ViT: drop_path_rate is {drop_path_rate}, expected a number from 0 to below 1")
