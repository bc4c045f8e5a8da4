"""Implement relational distillation: distances and angles between the embeddings of a batch.

An embedding is the input of a classifier's last layer: pooled features, one vector per sample.
Letters in shapes: B batch, D student width, C teacher width.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import embeddings_of, without_autocast
from lgkd.losses.registry import Factor, register_loss


@register_loss("rkd", weight=1.0, weight_help="Multiplies both parts.")
class RKD(nn.Module):
    """Match distances between two samples and angles among three, in student and teacher embeddings.

        distances: d_ij = |x_i - x_j| / mean of the nonzero distances
        angles: a_ijk = cosine between x_j - x_i and x_k - x_i, 0 where either is 0
        loss = distance_weight * mean over ij of H(d_ij - d'_ij) + angle_weight * mean over ijk of H(a_ijk - a'_ijk)

    H is Huber's loss with delta = 1; the means run over all B^2 and B^3 entries, i = j included. Widths
    need not agree. Memory grows with B^2 D and B^3. Depends on the whole batch.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019 (arXiv 1904.05068), as implemented in
    RepDistiller and mdistiller: factors 25 and 50, weight 1, with 1 for the classification.

    Args:
        distance_weight: Multiplies the part of the distances.
        angle_weight: Multiplies the part of the angles.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(self, distance_weight: Factor = 25.0, angle_weight: Factor = 50.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_embedding: (B,D).
            teacher_embedding: (B,C).

        Raises:
            InputError: they are not embeddings of one batch.
        """
        student, teacher = embeddings_of("RKD", student_embedding, teacher_embedding)
        (distances, units), (their_distances, their_units) = _differences(student), _differences(teacher)
        loss = self.distance_weight * F.smooth_l1_loss(_by_mean(distances), _by_mean(their_distances))
        with without_autocast(student):
            angles, their_angles = units @ units.transpose(1, 2), their_units @ their_units.transpose(1, 2)
        return loss + self.angle_weight * F.smooth_l1_loss(angles, their_angles)

    def extra_repr(self) -> str:
        return f"distance_weight={self.distance_weight:g}, angle_weight={self.angle_weight:g}"


def _differences(embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Compute distances (B,B) and unit vectors (B,B,D) between all samples; 0 where two are equal."""
    differences = embedding_BD[None] - embedding_BD[:, None]
    squares = differences.square().sum(dim=2)
    apart = squares > 0
    # The root of 0 has no gradient: those entries are 1 before it and 0 after.
    distances = torch.where(apart, squares, 1.0).sqrt()
    return torch.where(apart, distances, 0.0), differences / distances[:, :, None]


def _by_mean(distances_BB: Tensor) -> Tensor:
    """Divide distances by the mean of the nonzero ones."""
    count = (distances_BB > 0).sum()
    mean = distances_BB.sum() / count.clamp_min(1)
    return distances_BB / torch.where(count > 0, mean, 1.0)
