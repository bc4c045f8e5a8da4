"""Implement attention transfer between feature maps.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_coarser_grid, at_least_single
from lgkd.losses.registry import Bounds, register_loss


@register_loss("attention-transfer", weight=1000.0, weight_help="Multiplies the sum over the guided layer pairs.")
class AttentionTransfer(nn.Module):
    """Match the spatial attention of the teacher's maps, on the coarser grid.

        q(F) = mean over channels of |F|^p, flattened, with unit L2 norm for each sample: (B, h w)
        loss = sum over k of mean( (q(A(T_k)) - q(A(S_k)))^2 )

    A averages a map down to the coarser of the two grids, per side; no parameters. The mean runs
    over samples and positions, pairs are summed. `MapLoss("attention")` does the same on the finer grid.
    Below p = 1 a position whose value is exactly 0 has no gradient, since the formula has none there.

    Source: Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017 (arXiv 1612.03928), as
    implemented in mdistiller: weight 1000, p = 2, with 1 for the classification.

    Args:
        p: Power of the absolute values before they are averaged over channels.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, p: Annotated[float, Bounds(gt=0, le=10)] = 2.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar; maps (B,D_k,h,w) and (B,C_k,h',w'), one of each for each pair."""
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            ours, theirs = at_coarser_grid(at_least_single(student), at_least_single(teacher.detach()))
            losses.append(F.mse_loss(self._attention(ours), self._attention(theirs)))
        return sum(losses[1:], start=losses[0])

    def _attention(self, map_BChw: Tensor) -> Tensor:
        return F.normalize(_powers(map_BChw, self.p).mean(dim=1).flatten(1), dim=1)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def _powers(map_BChw: Tensor, p: float) -> Tensor:
    """Compute |F|^p times a factor per sample that the unit norm cancels; finite, with finite gradients."""
    if p == 2:
        return map_BChw.square()
    sizes = map_BChw.abs()
    tiny = torch.finfo(sizes.dtype).tiny
    if p > 2:
        # High powers exceed the range of the number format, and the norm squares them again.
        return (sizes / sizes.detach().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)).pow(p)
    if p >= 1:
        return sizes.pow(p)
    # The slope of a root at 0 is infinite: those positions are 1 before it and 0 after, so that it has no gradient.
    apart = sizes > tiny
    return torch.where(apart, torch.where(apart, sizes, 1.0).pow(p), 0.0)
