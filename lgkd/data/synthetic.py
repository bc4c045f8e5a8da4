"""Make synthetic images with the statistics of photographs, for benchmarks and dry runs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pictures(count: int, size: int, chance: torch.Generator) -> Tensor:
    """Draw uint8 (count,3,size,size): coarse colours, resized, with fine noise on them."""
    coarse = torch.rand(count, 3, 4, 4, generator=chance) * 255
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return smooth.add_(torch.randn(smooth.shape, generator=chance), alpha=16).clamp_(0, 255).to(torch.uint8)
