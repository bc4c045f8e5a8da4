"""Build DHVT: a Vision Transformer for small data sets, of constant width and with convolutions in every block.

Letters in shapes: B batch, K classes, H W image size, P side of a patch, N tokens with the class token first, D width,
h w grid of patches (H/P and W/P).
"""

from typing import Literal, get_args

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from lgkd._internal.text import did_you_mean
from lgkd.errors import ModelError
from lgkd.models.dhvt_layers import (
    AggregatingFeedForward,
    Attention,
    Grid,
    HeadInteractedAttention,
    Mlp,
    SequentialOverlappingPatches,
    linear_patches,
    to_tokens,
)
from lgkd.models.factory import ImageSize, pair
from lgkd.models.fitting_sizes import multiples_near

PatchEmbedding = Literal["sope", "linear"]
FeedForward = Literal["daff", "mlp"]

_EPSILON = 1e-6
_PATCH_SIZES = (4, 8, 16)
_MOST_PATCHES = 256


class Block(nn.Module):
    """Apply attention, then feed-forward, each after a LayerNorm and with a shortcut: (B,N,D) -> (B,N,D).

    Args:
        width: D.
        hidden: channels inside the feed-forward.
        drop_path: probability that a sample skips either of the two in training.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        head_tokens: bool,
        feed_forward: FeedForward,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = (HeadInteractedAttention if head_tokens else Attention)(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = (AggregatingFeedForward if feed_forward == "daff" else Mlp)(width, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens_BND: Tensor, grid: Grid) -> Tensor:
        x = tokens_BND + self.drop_path(self.attn(self.norm1(tokens_BND)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x), grid))
        return out


class DHVT(nn.Module):
    """Classify images by the Dynamic Hybrid Vision Transformer: (B,3,H,W) -> (B,K).

    A ViT with a class token and no positions, with three new parts: SOPE cuts overlapping patches by
    convolutions, HI-MHSA lets the heads of attention interact, and DAFF mixes neighbouring patches and gates the class
    token by them. Each can be replaced by the ViT's own. With `patch_embedding="linear"`, `head_tokens=False`,
    `feed_forward="mlp"` and `position_embedding=True` the model is a plain ViT, with the names that timm's
    `VisionTransformer` gives its weights.

    Without positions, images of other sizes than the stated one are accepted too.

    Source: Lu et al., "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small
    Datasets", arXiv 2210.05958, and its ablation for the options. As in the authors' code, linear layers start from a
    truncated normal distribution with deviation 0.02 and biases of 0, convolutions as PyTorch starts them.

    Args:
        num_classes: K, at least 1.
        width: D; 192 for DHVT-T, 384 for DHVT-S.
        image_size: pixels, one number or (height, width); divisible by the patch size.
        patch_size: P. None: the smallest of 4, 8 and 16 that leaves at most 256 patches, else 16; so 4 up to 64 px, 8
            up to 128 px, 16 above. The paper has 2 and 4 for images of 32 px and 16 for 224 px.
        depth: number of blocks.
        num_heads: a divisor of D. None: as many as the paper, heads of 48 channels (4 for T, 8 for S); in DHVT-S with
            patches of 16 px or more heads of 64 (6). (For ImageNet the paper gives T heads of 64 too: `num_heads=3`.)
        mlp_ratio: channels inside the feed-forward, as a multiple of D.
        patch_embedding: "sope" or "linear".
        head_tokens: use HI-MHSA as attention.
        feed_forward: "daff" or "mlp".
        position_embedding: add a learned position to each token, the class token included.
        drop_path_rate: probability that a sample skips half of the last block in training (stochastic depth); it grows
            linearly from 0 in the first. The paper has 0.1.
        in_chans: channels of the images.

    Raises:
        ModelError: an invalid option, or images that the patches do not divide.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        num_classes: int,
        width: int = 192,
        *,
        image_size: ImageSize = 32,
        patch_size: int | None = None,
        depth: int = 12,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        patch_embedding: PatchEmbedding = "sope",
        head_tokens: bool = True,
        feed_forward: FeedForward = "daff",
        position_embedding: bool = False,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        size = pair(image_size)
        patch_size = _patch_size_for(size) if patch_size is None else patch_size
        _check_words("patch_embedding", patch_embedding, get_args(PatchEmbedding))
        _check_words("feed_forward", feed_forward, get_args(FeedForward))
        _check_truths(head_tokens=head_tokens, position_embedding=position_embedding)
        _check_counts(num_classes=num_classes, width=width, depth=depth, patch_size=patch_size)
        if feed_forward == "daff" and width < 4:
            raise ModelError(f"width is {width}, expected at least 4: the class token's gate has a quarter of it")
        if not 0 <= drop_path_rate < 1:
            raise ModelError(f"drop_path_rate is {drop_path_rate}, expected at least 0 and less than 1")
        hidden = int(width * mlp_ratio)
        if hidden < 1:
            raise ModelError(
                f"mlp_ratio is {mlp_ratio}, which leaves no channel of a width of {width}; the paper has 4"
            )
        rows, columns = _grid_for(size, patch_size)

        self.patch_embed: nn.Module = (
            SequentialOverlappingPatches(patch_size, width, in_chans)
            if patch_embedding == "sope"
            else linear_patches(patch_size, width, in_chans)
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + rows * columns, width)) if position_embedding else None
        heads = _heads_for(width, patch_size) if num_heads is None else num_heads
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                hidden,
                head_tokens=head_tokens,
                feed_forward=feed_forward,
                drop_path=drop_path_rate * number / max(depth - 1, 1),
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        for token in (self.cls_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        patches_BDhw = self.patch_embed(images_B3HW)
        _, _, rows, columns = patches_BDhw.shape
        classes_B1D = self.cls_token.expand(images_B3HW.shape[0], -1, -1)
        x = torch.cat([classes_B1D, to_tokens(patches_BDhw)], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, (rows, columns))
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def _patch_size_for(size: tuple[int, int]) -> int:
    """Return the smallest of the sides that leaves few enough patches, or the largest."""
    height, width = size
    few = [side for side in _PATCH_SIZES if height * width <= _MOST_PATCHES * side**2]
    return few[0] if few else _PATCH_SIZES[-1]


def _heads_for(width: int, patch_size: int) -> int:
    """Return the paper's number of heads."""
    channels = 64 if width == 384 and patch_size >= 16 else 48
    if width % channels:
        raise ModelError(
            f"a width of {width} is not a multiple of the paper's heads of {channels} channels; give num_heads"
        )
    return width // channels


def _grid_for(size: tuple[int, int], patch_size: int) -> Grid:
    """Return the rows and columns of patches."""
    height, width = size
    if min(size) < 1 or height % patch_size or width % patch_size:
        near = f": {multiples_near(size, patch_size)}" if min(size) > 0 else ""
        raise ModelError(
            f"patches of {patch_size} x {patch_size} px do not divide images of {height} x {width} px; choose another "
            f"patch_size, or images whose sides are multiples of it{near}"
        )
    return height // patch_size, width // patch_size


def _check_words(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"{option} is {value!r}; {did_you_mean(str(value), known)}")


def _check_truths(**options: bool) -> None:
    for option, value in options.items():
        if not isinstance(value, bool):
            raise ModelError(f"{option} is {value!r}, expected true or false")


def _check_counts(**options: int) -> None:
    for option, value in options.items():
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{option} is {value!r}, expected a whole number of at least 1")
