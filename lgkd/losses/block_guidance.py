"""Implement guidance of all blocks: a learned mixture of the student's blocks imitates each teacher stage.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single
from lgkd.losses.map_loss import MapShape, Normalize, normalized, refuse_second_build, resized
from lgkd.losses.registry import register_loss


@register_loss("blocks", weight=2.5, weight_help="Multiplies the sum over the teacher's stages.")
class BlockGuidance(nn.Module):
    """Guide all blocks of the student by learned mixtures, without choosing pairs of layers.

    For teacher stages k with maps T_k (B,C_k,h',w') and student blocks l with maps S_l (B,D_l,h_l,w_l):

        M_k = sum over l of softmax(a_k)_l R(P_kl(S_l))
        loss = sum over k of mean( (R(T_k) - M_k)^2 )

    a_k has an entry for each block and starts at zero, so that the mixture starts uniform. P_kl is a 1x1
    convolution with bias, D_l -> C_k, shared by all blocks of one shape; R resizes, bilinear with
    `align_corners=False`, to the finest grid among T_k and all blocks, per side. The mean runs over
    all elements; stages are summed.

    If all blocks have one shape, as in a plain ViT, this is the softmax-weighted sum of the blocks, then
    one projection, then the resize of both maps to the finer grid: linear maps commute, and blocks of one
    shape are summed before they are projected. The source does not cover pyramids, whose blocks differ in
    width and grid; a projection for each shape is the choice made here.

    Source: the aggregation over blocks described in arXiv 2608.10723, known here only through summaries, and
    only that part: no fusion of the two maps.

    Args:
        normalize: Teacher maps unchanged, standardised over channels at each position, or with mean square 1.
    """

    reads: ClassVar[str] = "maps"
    all_blocks: ClassVar[bool] = True
    across_batch: ClassVar[bool] = False

    def __init__(self, normalize: Normalize = "none") -> None:
        super().__init__()
        self.normalize: Normalize = normalize
        # A vector per stage, not a matrix: 1-D tensors have no weight decay, which would flatten the mixture.
        self.mixing = nn.ParameterList()
        self.projections = nn.ModuleList()
        self._shapes: list[MapShape] = []

    @property
    def mixture(self) -> Tensor:
        """Return the weight of each block in the mixture of each stage, (stages, blocks); rows sum to 1."""
        return torch.stack([scores.detach().float().softmax(dim=0) for scores in self.mixing])

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Create the mixtures and projections for all blocks and stages, shapes (C,h,w); a guide calls this once."""
        refuse_second_build(self, self.projections)
        self._shapes = list(student_shapes)
        self.mixing = nn.ParameterList(torch.zeros(len(student_shapes)) for _ in teacher_shapes)
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(shape[0], teacher[0], kernel_size=1) for shape in self._distinct())
            for teacher in teacher_shapes
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_maps: maps (B,D_l,h_l,w_l) of all blocks, in their order.
            teacher_maps: maps (B,C_k,h',w') of the stages.

        Raises:
            InputError: the maps differ from those that it was built for.
        """
        if [tuple(one.shape[1:]) for one in student_maps] != self._shapes or len(teacher_maps) != len(self.mixing):
            raise InputError(
                f"BlockGuidance was built for {len(self._shapes)} student and {len(self.mixing)} teacher maps and "
                f"given {len(student_maps)} and {len(teacher_maps)}, or maps of other shapes; call build with the "
                "shapes of all blocks first, or pass it to a Guide"
            )
        losses = [
            self._stage(student_maps, normalized(teacher.detach(), self.normalize), scores, projections)  # type: ignore[arg-type]
            for teacher, scores, projections in zip(teacher_maps, self.mixing, self.projections, strict=True)
        ]
        return _total(losses)

    def _stage(
        self, student_maps: Sequence[Tensor], teacher: Tensor, scores: Tensor, projections: nn.ModuleList
    ) -> Tensor:
        height, width = (max(sizes) for sizes in zip(*(one.shape[2:] for one in [teacher, *student_maps]), strict=True))
        shares = scores.softmax(dim=0)
        parts = []
        for shape, project in zip(self._distinct(), projections, strict=True):
            assert isinstance(project, nn.Conv2d) and project.bias is not None
            members = [place for place, one in enumerate(self._shapes) if one == shape]
            part = F.conv2d(_total([shares[place] * student_maps[place] for place in members]), project.weight)
            # Each block contributes its share of the bias.
            part = part + (_total([shares[place] for place in members]) * project.bias)[:, None, None]
            parts.append(resized(at_least_single(part), height, width))
        return F.mse_loss(_total(parts), at_least_single(resized(teacher, height, width)))

    def _distinct(self) -> list[MapShape]:
        return list(dict.fromkeys(self._shapes))

    def extra_repr(self) -> str:
        return f"normalize={self.normalize!r}" if self.normalize != "none" else ""


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return sum(tensors[1:], start=tensors[0])
