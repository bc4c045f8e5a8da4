"""Implement hints: regression from the student's feature maps to the teacher's.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, averaged, refuse_unbuilt
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import Bounds, register_loss

Regressor = Literal["linear", "norm", "none"]


@register_loss(
    "hint",
    weight=100.0,
    weight_help="Multiplies the sum over the guided layer pairs; the published weight is for a single pair.",
)
class Hint(nn.Module):
    """Regress the teacher's maps from the student's, on the teacher's grid.

        loss = sum over k of k^growth mean( (T_k - A(r_k(S_k)))^2 ),   k = 1, 2, ... from early to late

    r_k is learned: a 1x1 convolution with bias, D_k -> C_k ("linear"), or a 1x1 convolution without bias,
    BatchNorm and ReLU ("norm"; it normalises by the micro-batch). With "none" it is the identity, and both
    maps of a pair must have the same width. A resizes the student's map to the
    teacher's grid: by averaging if that is coarser on both sides, else bilinearly. The teacher's maps
    are never resized; `MapLoss` uses the finer grid. The mean runs over all elements, pairs are summed.

    Source: Romero et al., FitNets, ICLR 2015 (arXiv 1412.6550), trained jointly and not in two stages, as
    in mdistiller: weight 100 with a single pair in the middle, with 1 for the classification. "none" and a
    growth of 1 are those of HDKD (arXiv 2407.07516, and the authors' code): weight 10 with three pairs of
    equal shapes, with 0.5 for the classification.

    Args:
        regressor: linear: a 1x1 convolution; norm: a 1x1 convolution, BatchNorm and ReLU; none: no projection, for
            pairs of equal widths.
        growth: Exponent of a pair's number in its factor, by which later pairs weigh more; 0: all weigh the same.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, regressor: Regressor = "linear", growth: Annotated[float, Bounds(ge=0, le=10)] = 0.0) -> None:
        super().__init__()
        self.regressor: Regressor = regressor
        self.growth = growth
        self.regressions = nn.ModuleList()

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Create the regressors for the given pairs of maps, shapes (C,h,w); a guide calls this once.

        Raises:
            InputError: it is built already, or its regressor is "none" and the widths of a pair differ.
        """
        refuse_second_build(self, self.regressions)
        pairs = zip(student_shapes, teacher_shapes, strict=True)
        self.regressions = nn.ModuleList(self._regression(student[0], teacher[0]) for student, teacher in pairs)

    def _regression(self, student_width: int, teacher_width: int) -> nn.Module:
        if self.regressor == "none":
            if student_width != teacher_width:
                raise InputError(
                    f"Hint: the regressor is 'none', and a pair of maps has {student_width} channels in the student "
                    f"and {teacher_width} in the teacher, expected equal widths; set the regressor to 'linear', or "
                    "pair layers of equal width"
                )
            return nn.Identity()
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
        pairs = zip(self.regressions, student_maps, teacher_maps, strict=True)
        for number, (regress, student, teacher) in enumerate(pairs, start=1):
            ours = _on_grid(at_least_single(regress(student)), teacher)
            loss = F.mse_loss(ours, at_least_single(teacher.detach()))
            losses.append(loss * number**self.growth if self.growth else loss)
        return sum(losses[1:], start=losses[0])

    def extra_repr(self) -> str:
        return repr(self.regressor) + (f", growth={self.growth:g}" if self.growth else "")


def _on_grid(map_BChw: Tensor, like: Tensor) -> Tensor:
    (height, width), (new_height, new_width) = map_BChw.shape[-2:], like.shape[-2:]
    if (height, width) == (new_height, new_width):
        return map_BChw
    if height >= new_height and width >= new_width:
        return averaged(map_BChw, (new_height, new_width))
    return F.interpolate(map_BChw, size=(new_height, new_width), mode="bilinear", align_corners=False)
