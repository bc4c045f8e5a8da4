"""What the tests of T2T-ViT, PVT and CvT share: the paper's figures, and small ones of each family."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lgkd.models.cvt import ConvolutionalVisionTransformer
from lgkd.models.pvt import PyramidVisionTransformer
from lgkd.models.t2t import (
    T2TViT,
)

# Measured on the authors' code of Locality Guidance (arXiv 2207.10026) at 224 px with 100 classes: parameters, GFLOPs
# (two for a multiply and an add), maps (channels, height, width) of all blocks, and which blocks are guided.
PUBLISHED: dict[str, tuple[int, float, list[tuple[int, int, int]], list[int]]] = {
    "t2t_vit_7": (4_078_922, 2.293, [(256, 14, 14)] * 7, [0, 3, 6]),
    "t2t_vit_14": (21_199_050, 9.566, [(384, 14, 14)] * 14, [0, 7, 13]),
    "pvt_tiny": (
        12_767_588,
        3.865,
        [(64, 56, 56)] * 2 + [(128, 28, 28)] * 2 + [(320, 14, 14)] * 2 + [(512, 7, 7)] * 2,
        [0, 3, 7],
    ),
    "cvt_13": (19_650_980, 9.131, [(64, 56, 56)] + [(192, 28, 28)] * 2 + [(384, 14, 14)] * 10, [0, 6, 11]),
}
T2T: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
PVT: dict[str, Any] = {
    "patch_size": 2,
    "embed_dims": (4, 8, 12, 16),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
}
CVT: dict[str, Any] = {"embed_dims": (4, 8, 12), "depths": (1, 1, 2), "num_heads": (1, 2, 3)}
FAMILIES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "t2t": (T2TViT, T2T),
    "pvt": (PyramidVisionTransformer, PVT),
    "cvt": (ConvolutionalVisionTransformer, CVT),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def small(family: str, image_size: int | tuple[int, int] = 32, **options: Any) -> nn.Module:
    """A model of the family with five classes, for images of 32 px."""
    factory, settings = FAMILIES[family]
    torch.manual_seed(1)
    return factory(5, image_size, **{**settings, **options})


def randomised(module: nn.Module, seed: int = 2) -> nn.Module:
    """The module in double precision with every weight drawn anew, so that none is zero or one."""
    chance = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance, dtype=torch.float64) * 0.3)
    return module


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_heads(queries: Tensor, keys: Tensor, values: Tensor, heads: int, scale: float) -> Tensor:
    """Attention written down with loops over samples, heads and queries."""
    queries, keys, values = queries.detach(), keys.detach(), values.detach()
    out, width = torch.zeros_like(queries), queries.shape[-1] // heads
    for sample in range(len(queries)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for place, query in enumerate(queries[sample, :, part]):
                weights = [math.exp(scale * float(query @ key)) for key in keys[sample, :, part]]
                mixed = sum(w * value for w, value in zip(weights, values[sample, :, part], strict=True))
                out[sample, place, part] = mixed / sum(weights)
    return out
