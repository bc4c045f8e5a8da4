"""Implement hints: regression from the student's feature maps to the teacher's.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_least_single, averaged, refuse_unbuilt
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import register_loss

Regressor = Literal["linear", "norm"]


@register_loss(
    "hint",
    weight=100.0,
    weight_help="Multiplies the sum over the guided layer pairs; the published weight is for a single pair.",
)
class Hint(nn.Module):
    """Regress the teacher's maps from the student's, on the teacher's grid.

        loss = sum over k of mean( (T_k - A(r_k(S_k)))^2 )

    r_k is learned: a 1x1 convolution with bias, D_k -> C_k ("linear"), or a 1x1 convolution without bias,
    BatchNorm and ReLU ("norm"; it normalises by the micro-batch). A resizes the student's map to the
    teacher's grid: by averaging if that is coarser on both sides, else bilinearly. The teacher's maps
    are never resized; `MapLoss` uses the finer grid. The mean runs over all elements, pairs are summed.

    Source: Romero et al., FitNets, ICLR 2015 (arXiv 1412.6550), trained jointly and not in two stages, as
    in mdistiller: weight 100 with a single pair in the middle, with 1 for the classification.

    Args:
        regressor: linear: a 1x1 convolution; norm: a 1x1 convolution, BatchNorm and ReLU.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, regressor: Regressor = "linear") -> None:
        super().__init__()
        self.regressor: Regressor = regressor
        self.regressions = nn.ModuleList()

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Create the regressors for the given pairs of maps, shapes (C,h,w); a guide calls this once."""
        refuse_second_build(self, self.regressions)
        pairs = zip(student_shapes, teacher_shapes, strict=True)
        self.regressions = nn.ModuleList(self._regression(student[0], teacher[0]) for student, teacher in pairs)

    def _regression(self, student_width: int, teacher_width: int) -> nn.Module:
        if self.regressor == "linear":
            return nn.Conv2d(student_width, teacher_width, kernel_size=1)
        return nn.Sequential(
            nn.Conv2d(student_width, teacher_width, kernel_size=1, bias=False),
            nn.BatchNorm2d(teacher_width),
            nn.ReLU(),
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w), one for each pair.
            teacher_maps: maps (B,C_k,h',w'), one for each pair.

        Raises:
            InputError: it was not built for these pairs.
        """
        refuse_unbuilt("Hint", len(self.regressions), len(student_maps))
        losses = []
        for regress, student, teacher in zip(self.regressions, student_maps, teacher_maps, strict=True):
            ours = _on_grid(at_least_single(regress(student)), teacher)
            losses.append(F.mse_loss(ours, at_least_single(teacher.detach())))
        return sum(losses[1:], start=losses[0])

    def extra_repr(self) -> str:
        return repr(self.regressor)


def _on_grid(map_BChw: Tensor, like: Tensor) -> Tensor:
    (height, width), (new_height, new_width) = map_BChw.shape[-2:], like.shape[-2:]
    if (height, width) == (new_height, new_width):
        return map_BChw
    if height >= new_height and width >= new_width:
        return averaged(map_BChw, (new_height, new_width))
    return F.interpolate(map_BChw, size=(new_height, new_width), mode="bilinear", align_corners=False)
