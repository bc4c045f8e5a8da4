"""Attention transfer between feature maps.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_least_single, checked_number


class AttentionTransfer(nn.Module):
    """Where maps are active: the teacher's attention is followed, on the coarser grid.

        q(F) = mean over channels of |F|^p, flattened, with unit L2 norm for each sample: (B, h w)
        loss = sum over k of mean( (q(A(T_k)) - q(A(S_k)))^2 )

    A averages a map down to the coarser of the two grids, side by side; nothing is learned. The mean runs
    over samples and positions, pairs are summed. `MapLoss("attention")` does the same on the finer grid.

    Source: Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017 (arXiv 1612.03928), as
    mdistiller computes it: weight 1000, p = 2, beside 1 for the classification.

    Args:
        p: the power, > 0.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, p: float = 2.0) -> None:
        super().__init__()
        self.p = checked_number("attention transfer", "p", p, above=0)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar; maps (B,D_k,h,w) and (B,C_k,h',w'), one of each for each pair."""
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            ours, theirs = _at_coarser_grid(at_least_single(student), at_least_single(teacher.detach()))
            losses.append(F.mse_loss(self._attention(ours), self._attention(theirs)))
        return sum(losses[1:], start=losses[0])

    def _attention(self, map_BChw: Tensor) -> Tensor:
        powers = map_BChw.square() if self.p == 2 else map_BChw.abs().pow(self.p)
        return F.normalize(powers.mean(dim=1).flatten(1), dim=1)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def _at_coarser_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    grid = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    pooled = [one if one.shape[-2:] == grid else F.adaptive_avg_pool2d(one, grid) for one in (first, second)]
    return pooled[0], pooled[1]
