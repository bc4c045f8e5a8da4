"""Encode some patches of an image alone, by a Vision Transformer.

Letters in shapes: B batch, H W image size, N patches, M encoded ones, T prefix tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lgkd._internal.tokens import gather_tokens
from lgkd.errors import ModelError

Encode = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class VisiblePatches:
    """Hold the encoder of some patches of a model, and what they are.

    Attributes:
        encode: images (B,3,H,W) and the numbers of M patches of each, int64 (B,M), to tokens (B,T+M,D) after the last
            norm; the pixels of other patches have no effect on them.
        prefix: T, class and register tokens, which come first.
        grid: rows and columns of patches, which are numbered row by row.
        patch: (height, width) of a patch in pixels.
        channels: of the images.
        width: D.
    """

    encode: Encode
    prefix: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    channels: int
    width: int


def visible_patches(model: nn.Module) -> VisiblePatches:
    """Find the encoder of some patches: `lgkd_visible_patches()` of the model, or that of timm's `VisionTransformer`.

    Raises:
        ModelError: another model, or one whose tokens contain pixels of other patches or need the whole grid.
    """
    own = getattr(model, "lgkd_visible_patches", None)
    if own is not None:
        return own()  # type: ignore[no-any-return]
    if not isinstance(model, VisionTransformer) or type(model.patch_embed) is not PatchEmbed:
        raise ModelError(
            f"{type(model).__name__} cannot encode some patches alone, expected a plain ViT such as vit_96, or "
            "timm:vit_tiny_patch16_224; use another student, or define lgkd_visible_patches() in your own"
        )
    return of_projection(
        model.patch_embed.proj,
        model.patch_embed.grid_size,
        model.num_prefix_tokens,
        lambda images, visible: _encode_by_timm(model, images, visible),
    )


def of_projection(projection: nn.Module, grid: tuple[int, int], prefix: int, encode: Encode) -> VisiblePatches:
    """Describe the patches of a convolution whose stride is its kernel."""
    assert isinstance(projection, nn.Conv2d)
    height, width = projection.kernel_size
    rows, columns = grid
    return VisiblePatches(
        encode=encode,
        prefix=prefix,
        grid=(rows, columns),
        patch=(height, width),
        channels=projection.in_channels,
        width=projection.out_channels,
    )


def _encode_by_timm(model: VisionTransformer, images_B3HW: Tensor, visible_BM: Tensor) -> Tensor:
    """Repeat the forward pass of timm's model with fewer patches."""
    prefix = model.num_prefix_tokens
    tokens = model._pos_embed(model.patch_embed(images_B3HW))
    tokens = torch.cat([tokens[:, :prefix], gather_tokens(tokens[:, prefix:], visible_BM)], dim=1)
    return model.norm(model.blocks(model.norm_pre(tokens)))  # type: ignore[no-any-return]
