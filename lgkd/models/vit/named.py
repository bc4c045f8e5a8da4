"""Define named plain ViTs for small images: `PlainViT` with other defaults, which users may still change.

All take the options of `lgkd.models.vit.plain.PlainViT`. Stochastic depth is left to recipes (`drop_path`), also where
an author's code has 0.1 as its default.
"""

from functools import partial
from typing import Any

from lgkd.models.vit.plain import PlainViT

_COMPACT = partial(
    PlainViT,
    embed_dim=256,
    depth=7,
    num_heads=4,
    mlp_ratio=2,
    qkv_bias=False,
    block="compact",
    norm_eps=1e-5,
    attn_drop_rate=0.1,
    position_std=0.2,
    class_token_std=0.0,
    patch_init="he",
)
"""Options shared by ViT-Lite, CVT and CCT of 7 blocks.

Source: Hassani et al., Escaping the Big Data Paradigm with Compact Transformers, arXiv 2104.05704, and the authors'
code (blocks, no biases of q, k and v, attention dropout 0.1, positions of deviation 0.2, a class token of zeros,
patch projections from He's fan-in distribution).
"""

vit_lite = _COMPACT
"""ViT-Lite-7/4: 7 blocks, patches of 4 pixels, a class token."""

cvt_7_4 = partial(_COMPACT, pooling="sequence")
"""CVT-7/4, the compact vision transformer: ViT-Lite with sequence pooling instead of the class token."""

cct_7_3x1 = partial(cvt_7_4, tokenizer="conv", conv_layers=1)
"""CCT-7/3x1, the compact convolutional transformer: CVT with one 3x3 convolution as its tokeniser; 16 x 16 tokens."""

cct_7_3x2 = partial(cvt_7_4, tokenizer="conv", conv_layers=2)
"""CCT-7/3x2: with two convolutions; 8 x 8 tokens."""

cct_2_3x2 = partial(cct_7_3x2, embed_dim=128, depth=2, num_heads=2, mlp_ratio=1)
"""CCT-2/3x2, the smallest."""

sl_vit = partial(
    PlainViT,
    embed_dim=192,
    depth=9,
    num_heads=12,
    mlp_ratio=2,
    tokenizer="shifted",
    attention="local",
    qkv_bias=False,
    norm_eps=1e-5,
    position_std=1.0,
    class_token_std=1.0,
    drop_path_rises=False,
    init="xavier",
)
"""SL-ViT: shifted patch tokenisation and locality self-attention; patches of 4 pixels at 32, of 8 at 64.

Source: Lee et al., Vision Transformer for Small-Size Datasets, arXiv 2112.13492, and the authors' code (no biases of
q, k and v, the same stochastic depth in all blocks, all weights' first distributions).
"""

poorvit = partial(PlainViT, embed_dim=192, depth=9, num_heads=12, mlp_ratio=2)
"""Small ViT of PoorViTs. The paper compares ranks of q, k and v, class tokens, positions and whitening: options.

Source: Wu, Powerful Design of Small Vision Transformer on CIFAR10, arXiv 2501.06220: its README, and the model in a
published fork of its code (biases of q, k and v, eps 1e-6, deviation 0.02 everywhere, rank 64 where a rank is asked
for, class tokens that have positions and are concatenated for the head, sinusoidal positions in two dimensions).
Chosen here: the baseline is what that code builds by default, since the paper's tables could not be read; the code's
optional blocks of class attention are left out.
"""


def _eighth(
    num_classes: int,
    image_size: int | tuple[int, int] = 32,
    *,
    patch_size: int | None = None,
    conv_layers: int | None = None,
    **options: Any,
) -> PlainViT:
    """Build a plain ViT whose tokens cut an image's shorter side into eight, if no other number is given.

    With tokenizer=conv each layer halves the grid, and the side is cut into eight to fifteen.
    """
    side = image_size if isinstance(image_size, int) else min(image_size)
    if patch_size is None:
        patch_size = max(1, side // 8)
    if conv_layers is None:
        conv_layers = max(1, (side // 8).bit_length() - 1)
    return PlainViT(num_classes, image_size, patch_size=patch_size, conv_layers=conv_layers, **options)


_SMALL = partial(_eighth, depth=6, pooling="mean")

vit_96 = partial(_SMALL, embed_dim=96, num_heads=3)
"""Plain ViT of width 96 for images of 32 to 96 px: 6 blocks, 8 x 8 patches, mean pooling.

Source: lgkd's own, for trainings of minutes: docs/results.md.
"""

vit_128 = partial(_SMALL, embed_dim=128, num_heads=4)
"""The same of width 128."""

vit_192 = partial(_SMALL, embed_dim=192, depth=8, num_heads=6)
"""The same of width 192, with 8 blocks."""

_CONV: dict[str, Any] = {"tokenizer": "conv", "conv_width": 32}

vit_96_conv = partial(vit_96, **_CONV)
"""`vit_96` whose tokens are made by 3x3 convolutions, 32 channels before the last: at 32 px two of them.

A sixth more time a step; ahead of patches at equal steps, guided and not (dev/LOG.md, 2026-11-30).
"""

vit_128_conv = partial(vit_128, **_CONV)
"""The same of width 128."""

vit_192_conv = partial(vit_192, **_CONV)
"""The same of width 192, with 8 blocks."""
