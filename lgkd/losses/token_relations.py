"""Implement distillation of the relations between the positions of one image.

Letters in shapes: B batch, D student width, C teacher width, h w map size, N = h w positions.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_coarser_grid, at_least_single, averaged, without_autocast
from lgkd.losses.kd import divergence
from lgkd.losses.registry import Bounds, Temperature, register_loss


@register_loss(
    "token-relations",
    weight=1.0,
    weight_help="Multiplies the sum over the guided layer pairs; the published weight is for a single pair.",
)
class TokenRelations(nn.Module):
    """Match the similarities between the positions of an image, in student and teacher maps.

        A(F)_mn = softmax over n of cos(F_m, F_n) / T,  for positions m, n of one image: (B,N,N)
        loss = sum over k of mean over b, m of KL(A(T_k)_m || A(S_k)_m)

    Both maps are averaged to the coarser of their numbers of rows, and of columns, and to `grid` at most, as N^2
    numbers are compared for each image. The widths need not agree, the scales of the maps do not matter, and nothing
    is projected. A position's similarity to itself, 1, is among those that are compared.

    Source: the local part of lightly-train's default distillation (`distillationv3`), of one pair, the last maps of
    both: weight 1, T = 0.07, beside its global part. There the student's map is projected to the teacher's
    width and resized bilinearly to the teacher's grid.

    Args:
        temperature: Cosines are divided by it before the softmax.
        grid: Largest number of rows and of columns; finer maps are averaged.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, temperature: Temperature = 0.07, grid: Annotated[int, Bounds(ge=2, le=64)] = 16) -> None:
        super().__init__()
        self.temperature = temperature
        self.grid = grid

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar; maps (B,D_k,h,w) and (B,C_k,h',w'), one of each for each pair."""
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            pair = at_coarser_grid(at_least_single(student), at_least_single(teacher.detach()))
            ours, theirs = (self._relations(self._within(one)) for one in pair)
            losses.append(divergence(theirs, ours).mean())
        return sum(losses[1:], start=losses[0])

    def _within(self, map_BChw: Tensor) -> Tensor:
        rows, columns = map_BChw.shape[-2:]
        if max(rows, columns) <= self.grid:
            return map_BChw
        return averaged(map_BChw, (min(rows, self.grid), min(columns, self.grid)))

    def _relations(self, map_BChw: Tensor) -> Tensor:
        """Compute log A, rows of all images one below the other: (B N, N)."""
        tokens_BCN = F.normalize(map_BChw.flatten(2), dim=1)
        with without_autocast(tokens_BCN):
            cosines_BNN = tokens_BCN.mT @ tokens_BCN
        return F.log_softmax(cosines_BNN / self.temperature, dim=2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, grid={self.grid}"
