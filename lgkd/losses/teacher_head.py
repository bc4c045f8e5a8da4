"""Implement distillation through the teacher's classifier, applied to the student's features.

Letters in shapes: B batch, K classes of the teacher, D student width, C teacher width.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, embeddings_of, without_autocast
from lgkd.losses.map_loss import refuse_second_build
from lgkd.losses.registry import Factor, register_loss

Projector = Literal["norm", "linear"]


@register_loss("teacher-head", weight=1.0, weight_help="Multiplies both parts.")
class TeacherHead(nn.Module):
    """Let the teacher's frozen classifier read the student's projected features, and match its logits.

    With e_T (C) the teacher's embedding, which its classifier W e + b reads, and e_S (D) the student's:

        d = P(e_S) - e_T
        loss = 1/(B K) * sum over b and k of (W d)_bk^2 + features / (B C) * sum over b and c of d_bc^2

    W P(e_S) + b are the logits of the teacher's classifier on the student's features, and b cancels in their
    difference from the teacher's logits. P is learned: a linear layer without bias, BatchNorm and ReLU ("norm"; it
    normalises by the micro-batch), for teachers whose embedding has no negative values, as with ReLU before the pool;
    or a linear layer with bias ("linear"). The student's own classifier is not read, so that the classes of
    the teacher may be others, and images may have several labels. If the teacher multiplies its logits by a factor, as
    FastNet does, W has it.

    Source: Yang et al., Knowledge Distillation Meets Open-Set Semi-Supervised Learning, 2022 (arXiv 2205.06701), and
    the authors' code: weight 1 of both parts (10 times the features for ShuffleNet), with 1 for the classification,
    also on images without labels. There P is applied to every position of the student's last map before the
    mean over positions, which for "linear" is the same; here to the student's embedding, so that a class token serves.

    Args:
        features: Multiplies the squared distance of the embeddings themselves.
        projector: norm: a linear layer, BatchNorm and ReLU; linear: a linear layer.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = False
    teacher_classifier: ClassVar[bool] = True
    matrix: Tensor

    def __init__(self, features: Factor = 1.0, projector: Projector = "norm") -> None:
        super().__init__()
        self.features = features
        self.projector: Projector = projector
        self.projection = nn.Sequential()
        # The teacher's, which no checkpoint stores.
        self.register_buffer("matrix", torch.empty(0), persistent=False)

    def build(self, student_width: int, teacher_width: int, matrix_KC: Tensor) -> None:
        """Create the projection between the given widths and take the classifier's matrix; a guide calls this once."""
        refuse_second_build(self, self.projection)
        self.matrix = matrix_KC.detach()
        if self.projector == "linear":
            self.projection = nn.Sequential(nn.Linear(student_width, teacher_width))
            return
        self.projection = nn.Sequential(
            nn.Linear(student_width, teacher_width, bias=False), nn.BatchNorm1d(teacher_width), nn.ReLU()
        )

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_embedding: (B,D); B >= 2 with "norm" in training.
            teacher_embedding: (B,C).

        Raises:
            InputError: it was not built, there is one sample to normalise, or they are not embeddings of one batch.
        """
        if not len(self.projection):
            raise InputError(
                "TeacherHead has no projection; call build(student_width, teacher_width, matrix) first, or pass it to "
                "a Guide"
            )
        if len(student_embedding) < 2 and self.training and self.projector == "norm":
            raise InputError(
                "TeacherHead normalises by the batch, and got a batch of one; use batches of 2 or more, or the "
                "projector linear"
            )
        projected, teacher = embeddings_of("TeacherHead", self.projection(student_embedding), teacher_embedding)
        apart = projected - teacher
        with without_autocast(apart):
            logits = apart @ at_least_single(self.matrix).to(apart.dtype).T
        loss = logits.square().mean()
        return loss + self.features * apart.square().mean() if self.features else loss

    def extra_repr(self) -> str:
        return f"features={self.features:g}, projector={self.projector!r}"
