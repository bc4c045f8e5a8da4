"""Losses between maps: how far the student's patch maps are from the teacher's.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError, did_you_mean

Transform = Literal["linear", "attention", "similarity"]


class MapLoss(nn.Module):
    """The guidance loss of Locality Guidance, in its three transforms.

    For pairs k of a student map S_k (B,D_k,h,w) and a teacher map T_k (B,C_k,h',w'):

        loss = sum over k of mean( (t(R(T_k)) - t(R(P_k(S_k))))^2 )

    R resizes both maps, bilinear with `align_corners=False`, to the finer of the two grids, side by
    side the larger; the mean runs over all elements, so that every pair weighs the same; pairs are
    summed. The transforms:

    * "linear": P_k is a learned 1x1 convolution with bias, D_k -> C_k; t is the identity. The
      projection comes before the resize. Maps are not normalised, so the teacher's scale counts.
    * "attention": no projection; t is the mean over channels of the squares, flattened and divided
      by its L2 norm for each sample: (B, h w).
    * "similarity": no projection; t is the Gram matrix of the flattened maps, its rows divided by
      their L2 norms: (B, B). It looks across the batch.

    Source: Li et al., Locality Guidance for Improving Vision Transformers on Tiny Datasets, ECCV
    2022 (arXiv 2207.10026), and the authors' code.

    Args:
        transform: "linear", "attention" or "similarity".
    """

    reads: ClassVar[str] = "maps"

    def __init__(self, transform: Transform = "linear") -> None:
        super().__init__()
        if transform not in get_args(Transform):
            raise InputError(
                f"map loss: unknown transform {transform!r}; {did_you_mean(transform, get_args(Transform))}"
            )
        self.transform: Transform = transform
        self.projections = nn.ModuleList()

    @property
    def across_batch(self) -> bool:
        """Whether a sample's loss depends on the other samples of the batch."""
        return self.transform == "similarity"

    def build(self, student_widths: Sequence[int], teacher_widths: Sequence[int]) -> None:
        """Make the projections for these pairs of widths; a guide calls this once."""
        if self.transform != "linear":
            return
        if len(self.projections):
            raise InputError("this MapLoss has projections already: a loss serves one guide; make a new one for each")
        self.projections = nn.ModuleList(
            nn.Conv2d(student_width, teacher_width, kernel_size=1)
            for student_width, teacher_width in zip(student_widths, teacher_widths, strict=True)
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w), one for each pair.
            teacher_maps: maps (B,C_k,h',w'), one for each pair.

        Raises:
            InputError: "linear" without projections for these pairs.
        """
        if self.transform == "linear":
            if len(self.projections) != len(student_maps):
                raise InputError(
                    f"MapLoss('linear') has {len(self.projections)} projections for {len(student_maps)} student maps; "
                    "call build(student_widths, teacher_widths) first, or hand it to a Guide"
                )
            student_maps = [project(student) for project, student in zip(self.projections, student_maps, strict=True)]
        distances = [
            self._distance(*at_finer_grid(student, teacher))
            for student, teacher in zip(student_maps, teacher_maps, strict=True)
        ]
        return sum(distances[1:], start=distances[0])

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Squares and Gram matrices overflow or lose their digits in half precision.
        student, teacher = _at_least_single(student), _at_least_single(teacher)
        if self.transform == "attention":
            student, teacher = attention_map(student), attention_map(teacher)
        elif self.transform == "similarity":
            student, teacher = similarity(student), similarity(teacher)
        return F.mse_loss(student, teacher)

    def extra_repr(self) -> str:
        return repr(self.transform)


def at_finer_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, bilinearly resized to the larger height and the larger width of the two."""
    height = max(first.shape[-2], second.shape[-2])
    width = max(first.shape[-1], second.shape[-1])
    return _resized(first, height, width), _resized(second, height, width)


def attention_map(map_BChw: Tensor) -> Tensor:
    """Where a map is active: mean over channels of the squares, with unit L2 norm: (B, h w)."""
    return F.normalize(map_BChw.square().mean(dim=1).flatten(1), dim=1)


def similarity(map_BChw: Tensor) -> Tensor:
    """How alike the batch's samples are: Gram matrix with rows of unit L2 norm, (B, B)."""
    flat = map_BChw.flatten(1)
    # Autocast would compute the products in half precision again.
    with torch.autocast(flat.device.type, enabled=False):
        return F.normalize(flat @ flat.T, dim=1)


def _resized(map_BChw: Tensor, height: int, width: int) -> Tensor:
    if map_BChw.shape[-2:] == (height, width):
        return map_BChw
    return F.interpolate(map_BChw, size=(height, width), mode="bilinear", align_corners=False)


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
