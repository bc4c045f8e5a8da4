"""Losses between feature maps from the literature on CNNs, for any pairs of maps.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.common import at_least_single, checked_choice, checked_number
from lgkd.losses.maps import MapShape, refuse_second_build, similarity

Regressor = Literal["linear", "norm"]


class Hint(nn.Module):
    """A regression from the student's maps onto the teacher's, on the teacher's grid.

        loss = sum over k of mean( (T_k - A(r_k(S_k)))^2 )

    r_k is learned: a 1x1 convolution with bias, D_k -> C_k ("linear"), or a 1x1 convolution without bias,
    BatchNorm and ReLU ("norm"; it normalises by the micro-batch). A brings the student's map to the
    teacher's grid: by averaging where that is coarser on both sides, else bilinearly. The teacher's maps
    are never touched; with `MapLoss` the finer grid wins. The mean runs over all elements, pairs are summed.

    Source: Romero et al., FitNets, ICLR 2015 (arXiv 1412.6550), trained jointly and not in two stages, as
    mdistiller does: weight 100 with a single pair in the middle, beside 1 for the classification.

    Args:
        regressor: "linear" or "norm".
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, regressor: Regressor = "linear") -> None:
        super().__init__()
        checked_choice("hint", "regressor", regressor, get_args(Regressor))
        self.regressor: Regressor = regressor
        self.regressions = nn.ModuleList()

    def build(self, student_shapes: Sequence[MapShape], teacher_shapes: Sequence[MapShape]) -> None:
        """Make the regressors for these pairs of maps, shapes (C,h,w); a guide calls this once."""
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
        """The loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w), one for each pair.
            teacher_maps: maps (B,C_k,h',w'), one for each pair.

        Raises:
            InputError: it was not built for these pairs.
        """
        _refuse_unbuilt("Hint", len(self.regressions), len(student_maps))
        losses = []
        for regress, student, teacher in zip(self.regressions, student_maps, teacher_maps, strict=True):
            ours = _on_grid(at_least_single(regress(student)), teacher)
            losses.append(F.mse_loss(ours, at_least_single(teacher.detach())))
        return sum(losses[1:], start=losses[0])

    def extra_repr(self) -> str:
        return repr(self.regressor)


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


class SimilarityPreserving(nn.Module):
    """How alike the batch's samples are to each other, in the student as in the teacher.

        G(F) = Gram matrix of the flattened maps, rows with unit L2 norm: (B, B)
        loss = sum over k of mean( (G(T_k) - G(S_k))^2 )

    The mean runs over the B^2 entries, which is the squared Frobenius norm divided by B^2. Maps are not
    resized: widths and grids need not agree. It looks across the batch.

    Source: Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), as
    mdistiller computes it: weight 3000, beside 1 for the classification.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = True

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar; maps (B,D_k,h,w) and (B,C_k,h',w'), one of each for each pair."""
        losses = [
            F.mse_loss(similarity(at_least_single(student)), similarity(at_least_single(teacher.detach())))
            for student, teacher in zip(student_maps, teacher_maps, strict=True)
        ]
        return sum(losses[1:], start=losses[0])


class ReviewKD(nn.Module):
    """Every teacher map is imitated by the student's map of its depth fused with all deeper ones.

    From the deepest pair up, with M the middle width (the deepest student width, at most 512):

        x_k = BN(1x1 convolution of S_k to M)
        f_k = g_1 x_k + g_2 R(f_k+1),  (g_1, g_2) = sigmoid(1x1 convolution of [x_k, R(f_k+1)] to 2)
        o_k = BN(3x3 convolution of R'(f_k) to C_k)
        loss = sum over k of context(o_k, T_k)

    The deepest pair has f_k = x_k. R brings the deeper fusion to the student's grid, R' to the teacher's, both
    by nearest neighbour; what is handed on is R'(f_k). The context loss is the weighted mean of mean squared
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
        """Make the fusions for these pairs of maps, shapes (C,h,w), early to late; a guide calls this once."""
        refuse_second_build(self, self.fusions)
        middle = min(512, student_shapes[-1][0])
        self.fusions = nn.ModuleList(
            _Fusion(student[0], middle, teacher[0], deepest=place == len(student_shapes) - 1)
            for place, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True))
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w), early to late, one for each pair.
            teacher_maps: maps (B,C_k,h',w'), one for each pair.

        Raises:
            InputError: it was not built for these pairs.
        """
        _refuse_unbuilt("ReviewKD", len(self.fusions), len(student_maps))
        handed_on: Tensor | None = None
        losses = []
        pairs = list(zip(self.fusions, student_maps, teacher_maps, strict=True))
        for fuse, student, teacher in reversed(pairs):
            output, handed_on = fuse(student, handed_on, teacher.shape[-2:])
            losses.append(context_loss(at_least_single(output), at_least_single(teacher.detach())))
        return sum(losses[1:], start=losses[0])


class _Fusion(nn.Module):
    """One step of `ReviewKD`: this depth's map joined with what comes from below."""

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
        """What the teacher's map is compared with, (B,C,*grid), and what is handed on, (B,M,*grid)."""
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
    """Mean squared difference on the map and on its averages of 4 x 4, 2 x 2 and 1 x 1; see `ReviewKD`."""
    loss, weight, weights = F.mse_loss(student_BChw, teacher_BChw), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student_BChw.shape[-2:]):
            weight /= 2
            weights += weight
            pooled = F.adaptive_avg_pool2d(student_BChw, size), F.adaptive_avg_pool2d(teacher_BChw, size)
            loss = loss + weight * F.mse_loss(*pooled)
    return loss / weights


def _refuse_unbuilt(name: str, built: int, given: int) -> None:
    if built != given:
        raise InputError(
            f"{name} was built for {built} pairs and given {given} student maps; call "
            "build(student_shapes, teacher_shapes) first, or hand it to a Guide"
        )


def _on_grid(map_BChw: Tensor, like: Tensor) -> Tensor:
    (height, width), (new_height, new_width) = map_BChw.shape[-2:], like.shape[-2:]
    if (height, width) == (new_height, new_width):
        return map_BChw
    if height >= new_height and width >= new_width:
        return F.adaptive_avg_pool2d(map_BChw, (new_height, new_width))
    return F.interpolate(map_BChw, size=(new_height, new_width), mode="bilinear", align_corners=False)


def _at_coarser_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    grid = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    pooled = [one if one.shape[-2:] == grid else F.adaptive_avg_pool2d(one, grid) for one in (first, second)]
    return pooled[0], pooled[1]
