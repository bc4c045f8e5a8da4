"""Implement knowledge review: feature maps of several stages fused from the last to the first.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_least_single, averaged, refuse_unbuilt
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import register_loss


@register_loss(
    "review",
    weight=1.0,
    weight_help="Multiplies the sum over the guided layer pairs; published: 1 to 5, after 20 epochs of warm-up.",
)
class ReviewKD(nn.Module):
    """Match each teacher map with the student's map of its depth fused with all deeper ones.

    From the deepest pair up, with M the middle width (the deepest student width, at most 512):

        x_k = BN(1x1 convolution of S_k to M)
        f_k = g_1 x_k + g_2 R(f_k+1),  (g_1, g_2) = sigmoid(1x1 convolution of [x_k, R(f_k+1)] to 2)
        o_k = BN(3x3 convolution of R'(f_k) to C_k)
        loss = sum over k of context(o_k, T_k)

    The deepest pair has f_k = x_k. R resizes the deeper fusion to the student's grid, R' to the teacher's, both
    by nearest neighbour; R'(f_k) is passed to the next pair. The context loss is the weighted mean of mean squared
    differences on the full map (weight 1) and on maps averaged to 4 x 4, 2 x 2 and 1 x 1 (weights 1/2, 1/4,
    1/8); of the sizes only those below the grid's smaller side are used, and the first used has 1/2. The
    BatchNorms use the micro-batch.

    Source: Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021 (arXiv 2104.09044), and
    mdistiller: weight 1 to 5, 20 epochs of warm-up. There the pooled features are one more, deepest pair.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.fusions = nn.ModuleList()

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Create the fusions for the given pairs of maps, shapes (C,h,w), early to late; a guide calls this once."""
        refuse_second_build(self, self.fusions)
        middle = min(512, student_shapes[-1][0])
        self.fusions = nn.ModuleList(
            _Fusion(student[0], middle, teacher[0], deepest=place == len(student_shapes) - 1)
            for place, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True))
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w), early to late, one for each pair.
            teacher_maps: maps (B,C_k,h',w'), one for each pair.

        Raises:
            InputError: it was not built for these pairs.
        """
        refuse_unbuilt("ReviewKD", len(self.fusions), len(student_maps))
        handed_on: Tensor | None = None
        losses = []
        pairs = list(zip(self.fusions, student_maps, teacher_maps, strict=True))
        for fuse, student, teacher in reversed(pairs):
            output, handed_on = fuse(student, handed_on, teacher.shape[-2:])
            losses.append(context_loss(at_least_single(output), at_least_single(teacher.detach())))
        return sum(losses[1:], start=losses[0])


class _Fusion(nn.Module):
    """Fuse the map of a depth with the deeper fusion, a step of `ReviewKD`."""

    def __init__(self, student_width: int, middle: int, teacher_width: int, *, deepest: bool) -> None:
        super().__init__()
        enter = nn.Conv2d(student_width, middle, kernel_size=1, bias=False)
        leave = nn.Conv2d(middle, teacher_width, kernel_size=3, padding=1, bias=False)
        for convolution in (enter, leave):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.enter = nn.Sequential(enter, nn.BatchNorm2d(middle))
        self.gates = None if deepest else nn.Conv2d(2 * middle, 2, kernel_size=1)
        self.leave = nn.Sequential(leave, nn.BatchNorm2d(teacher_width))

    def forward(self, student: Tensor, deeper: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse a stage; return the map compared with the teacher's, (B,C,*grid), and the next input, (B,M,*grid)."""
        fused: Tensor = self.enter(student)
        if self.gates is not None:
            assert deeper is not None
            below = F.interpolate(deeper, size=fused.shape[-2:], mode="nearest")
            gates = self.gates(torch.cat([fused, below], dim=1)).sigmoid()
            fused = fused * gates[:, :1] + below * gates[:, 1:]
        if fused.shape[-2:] != grid:
            fused = F.interpolate(fused, size=grid, mode="nearest")
        return self.leave(fused), fused


def context_loss(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """Compute mean squared differences on the map and its averages of 4 x 4, 2 x 2 and 1 x 1; see `ReviewKD`."""
    loss, weight, weights = F.mse_loss(student_BChw, teacher_BChw), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student_BChw.shape[-2:]):
            weight /= 2
            weights += weight
            pooled = averaged(student_BChw, (size, size)), averaged(teacher_BChw, (size, size))
            loss = loss + weight * F.mse_loss(*pooled)
    return loss / weights
