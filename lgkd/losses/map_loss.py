"""Implement the guidance loss between the student's and the teacher's feature maps.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence, Sized
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, without_autocast
from lgkd.losses.registry import OnlyWith, register_loss

Transform = Literal["linear", "attention", "similarity"]
Normalize = Literal["none", "channel", "unit"]
MapShape = tuple[int, int, int]
"""Shape of a map without the batch: (C,h,w)."""


@register_loss("locality", weight=2.5, weight_help="Multiplies the sum over the guided layer pairs.")
class MapLoss(nn.Module):
    """Compute the guidance loss of Locality Guidance, in its three transforms.

    For pairs k of a student map S_k (B,D_k,h,w) and a teacher map T_k (B,C_k,h',w'):

        loss = sum over k of mean( (t(R(T_k)) - t(R(P_k(S_k))))^2 )

    R resizes both maps, bilinear with `align_corners=False`, to the finer of the two grids, i.e. the
    larger per side; the mean runs over all elements, so that every pair weighs the same; pairs are
    summed. The transforms:

    * "linear": P_k is a learned 1x1 convolution with bias, D_k -> C_k; t is the identity. The
      projection precedes the resize. Maps are not normalised, so the teacher's scale matters.
    * "attention": no projection; t is the mean over channels of the squares, flattened and divided
      by its L2 norm for each sample: (B, h w).
    * "similarity": no projection; t is the Gram matrix of the flattened maps, its rows divided by
      their L2 norms: (B, B). Depends on the whole batch.

    With "linear" the teacher's maps may be normalised first, before the resize, so that the weight of a
    pair does not depend on the teacher's scale; the projection learns the normalised target. Both forms are
    computed per sample, independent of the batch size:

    * "none": T_k unchanged, as in the paper.
    * "channel": at each position, (T - m) / sqrt(v + 1e-6) with mean m and variance v (1/C) over channels.
    * "unit": T / sqrt(mean over channels and positions of T^2 + 1e-12), so that each map's mean square is 1.

    Source: Li et al., Locality Guidance for Improving Vision Transformers on Tiny Datasets, ECCV
    2022 (arXiv 2207.10026), and the authors' code.

    Args:
        transform: linear: a learned 1x1 projection to the teacher's width; the other two need no projection.
        normalize: Teacher maps unchanged, standardised over channels at each position, or with mean square 1 (linear
            only).
    """

    reads: ClassVar[str] = "maps"

    def __init__(
        self,
        transform: Transform = "linear",
        normalize: Annotated[Normalize, OnlyWith("transform", "linear")] = "none",
    ) -> None:
        super().__init__()
        self.transform: Transform = transform
        self.normalize: Normalize = normalize
        self.projections = nn.ModuleList()

    @property
    def across_batch(self) -> bool:
        """Return True if a sample's loss depends on the other samples of the batch."""
        return self.transform == "similarity"

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Create the projections for the given pairs of maps, shapes (C,h,w); a guide calls this once."""
        if self.transform != "linear":
            return
        refuse_second_build(self, self.projections)
        self.projections = nn.ModuleList(
            nn.Conv2d(student_shape[0], teacher_shape[0], kernel_size=1)
            for student_shape, teacher_shape in zip(student_shapes, teacher_shapes, strict=True)
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar.

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
                    "call build(student_shapes, teacher_shapes) first, or pass it to a Guide"
                )
            teacher_maps = [normalized(teacher, self.normalize) for teacher in teacher_maps]
            student_maps = [project(student) for project, student in zip(self.projections, student_maps, strict=True)]
        distances = [
            self._distance(*at_finer_grid(student, teacher))
            for student, teacher in zip(student_maps, teacher_maps, strict=True)
        ]
        return sum(distances[1:], start=distances[0])

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Squares and Gram matrices overflow or lose precision in half precision.
        student, teacher = at_least_single(student), at_least_single(teacher)
        if self.transform == "attention":
            student, teacher = attention_map(student), attention_map(teacher)
        elif self.transform == "similarity":
            student, teacher = similarity(student), similarity(teacher)
        return F.mse_loss(student, teacher)

    def extra_repr(self) -> str:
        return repr(self.transform) + (f", normalize={self.normalize!r}" if self.normalize != "none" else "")


def at_finer_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Resize both maps bilinearly to the larger height and the larger width of the two."""
    height = max(first.shape[-2], second.shape[-2])
    width = max(first.shape[-1], second.shape[-1])
    return resized(first, height, width), resized(second, height, width)


def normalized(map_BChw: Tensor, how: Normalize) -> Tensor:
    """Normalise a map by "none", "channel" or "unit", see `MapLoss`; (B,C,h,w)."""
    if how == "none":
        return map_BChw
    values = at_least_single(map_BChw)
    if how == "unit":
        return values * (values.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-12).rsqrt()
    centred = values - values.mean(dim=1, keepdim=True)
    return centred * (centred.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()


def refuse_second_build(loss: nn.Module, learned: Sized) -> None:
    """Refuse to build a loss a second time, with an InputError."""
    if len(learned):
        raise InputError(
            f"this {type(loss).__name__} already has projections: a loss serves one guide; create a new one for each"
        )


def attention_map(map_BChw: Tensor) -> Tensor:
    """Compute the spatial attention of a map: mean over channels of the squares, with unit L2 norm: (B, h w)."""
    return F.normalize(map_BChw.square().mean(dim=1).flatten(1), dim=1)


def similarity(map_BChw: Tensor) -> Tensor:
    """Compute the similarity of the batch's samples: Gram matrix with rows of unit L2 norm, (B, B)."""
    flat = map_BChw.flatten(1)
    # Autocast would compute the products in half precision.
    with without_autocast(flat):
        return F.normalize(flat @ flat.T, dim=1)


def resized(map_BChw: Tensor, height: int, width: int) -> Tensor:
    if map_BChw.shape[-2:] == (height, width):
        return map_BChw
    return F.interpolate(map_BChw, size=(height, width), mode="bilinear", align_corners=False)
