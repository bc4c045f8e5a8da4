"""Implement distillation of dense logits, from each position of the teacher's last map to the student's.

Letters in shapes: B batch, K classes, D student width, h w map size.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_coarser_grid, at_least_single
from lgkd.losses.kd import soft_targets
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import OnlyWith, Temperature, register_loss

Course = Literal["linear", "square", "cosine", "local", "global"]
Target = Literal["hard", "soft"]


@register_loss("dense-kd", weight=1.0, weight_help="Multiplies the loss, which is a mean over positions.")
class DenseKD(nn.Module):
    """Distill the teacher's logits of each position, on a course from local to global ones.

        Z'_ij = r Z_ij + (1 - r) z
        hard: loss = - mean over b, i, j of log softmax(S_ij) at argmax over k of Z'_ijk
        soft: loss = T^2 * mean over b, i, j of KL(softmax(Z'_ij / T) || softmax(S_ij / T))

    Z_ij are the teacher's dense logits (K,h',w'): the output of its classifier for this position of its last map alone.
    z are its logits of the image; with mean pooling they are the mean of Z. Of a teacher that takes the maximum
    over positions, as FastNet does, the mean of Z is not z, and Z is smaller: every value of its map is at most the
    maximum that its classifier was trained with. The course ends at its z all the same. Of a teacher with a
    class token, Z is its classifier on the patch tokens of the same layer, for which it was not trained.

    S_ij are the student's dense logits (K,h,w): by its own classifier, if that reads the mean or maximum over the
    positions of a map, as in pyramids, mean-pooled ViTs and CNNs; otherwise (a class token, weighted pooling) by a
    linear layer D -> K of the term's own on the map of the last block, which is discarded with the guide. Both
    sides are averaged to the coarser number of rows and of columns.

    The course r is that of the training's epoch e, which may be a fraction, of E: "linear" 1 - e/E, "square"
    (1 - e/E)^2, "cosine" cos(pi/2 e/E), "local" 1 and "global" 0. Without a training loop that sets epochs, e is 0.

    Source: Zhao et al., Cumulative Spatial Knowledge Distillation for Vision Transformers, ICCV 2023 (arXiv
    2307.08500), and the authors' code: weight 1, hard, linear, T = 1, beside 0.5 for the classification and 0.5
    for the teacher's hard label on a distillation token, whose head they also apply to the patch tokens, and average
    into the prediction; not here. Their soft form sums over positions; here it is a mean.

    Args:
        target: hard: the class with the largest mixed logit; soft: its softened probabilities.
        temperature: Logits are divided by it before the softmax (soft only).
        course: Share of the local logits in the target during training.
    """

    reads: ClassVar[str] = "dense"
    across_batch: ClassVar[bool] = False
    local: Tensor

    def __init__(
        self,
        target: Target = "hard",
        temperature: Annotated[Temperature, OnlyWith("target", "soft")] = 1.0,
        course: Course = "linear",
    ) -> None:
        super().__init__()
        self.target: Target = target
        self.temperature = temperature
        self.course: Course = course
        self.classifier = nn.ModuleList()
        # A tensor, so that a compiled step is not compiled again; not in a checkpoint, as it follows from the epoch.
        self._share = local_share(course, 0.0)
        self.register_buffer("local", torch.tensor(self._share), persistent=False)

    def build(self, student_shape: MapShape, teacher_shape: MapShape, *, classified: bool) -> None:
        """Create the classifier of a student map that has no logits of its own; a guide calls this once.

        Args:
            student_shape: (K,h,w) of dense logits, or (D,h,w) of the map of the last block.
            teacher_shape: (K,h',w') of dense logits.
            classified: the student's are logits.
        """
        refuse_second_build(self, self.classifier)
        if not classified:
            self.classifier.append(nn.Conv2d(student_shape[0], teacher_shape[0], kernel_size=1))

    def set_progress(self, fraction: float) -> None:
        """Set the course to a fraction of the training, 0 to 1."""
        share = local_share(self.course, fraction)
        if share != self._share:  # each write is an operation on the device
            self._share = share
            self.local.fill_(share)

    def forward(self, student_dense: Tensor, teacher_dense: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_dense: dense logits (B,K,h,w), or the map (B,D,h,w) that it was built for.
            teacher_dense: dense logits (B,K,h',w').
            teacher_logits: (B,K).

        Raises:
            InputError: they are not of the same images and classes.
        """
        ours = self.classifier[0](student_dense) if len(self.classifier) else student_dense
        _check(ours, teacher_dense, teacher_logits)
        ours, theirs = at_coarser_grid(at_least_single(ours), at_least_single(teacher_dense.detach()))
        whole = at_least_single(teacher_logits.detach())[:, :, None, None]
        mixed = torch.lerp(whole, theirs, self.local.to(theirs.dtype))
        rows, wanted = _rows(ours), _rows(mixed)
        if self.target == "hard":
            return F.cross_entropy(rows, wanted.argmax(dim=1))
        return soft_targets(rows, wanted, self.temperature, "batch")

    def extra_repr(self) -> str:
        softened = f", temperature={self.temperature:g}" if self.target == "soft" else ""
        return f"target={self.target!r}{softened}, course={self.course!r}"


def local_share(course: Course, fraction: float) -> float:
    """Return the share of the local logits at a fraction of the training; see `DenseKD`."""
    left = 1 - min(max(fraction, 0.0), 1.0)
    return {
        "linear": left,
        "square": left**2,
        "cosine": math.cos(math.pi / 2 * (1 - left)),
        "local": 1.0,
        "global": 0.0,
    }[course]


def _check(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    if ours.ndim != 4 or theirs.ndim != 4 or not ours.shape[:2] == theirs.shape[:2] == logits.shape:
        raise InputError(
            f"DenseKD: the student's dense logits are {tuple(ours.shape)}, the teacher's {tuple(theirs.shape)} and its "
            f"logits {tuple(logits.shape)}; they must be (B,K,h,w), (B,K,h',w') and (B,K), of the same images and "
            "classes; of a map, call build(student_shape, teacher_shape, classified=False) first"
        )


def _rows(dense_BKhw: Tensor) -> Tensor:
    """Arrange logits as those of B h w samples, (B h w, K)."""
    return dense_BKhw.flatten(2).mT.flatten(0, 1)
