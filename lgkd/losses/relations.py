"""Losses between embeddings: how the samples of a batch, or their features, relate to each other.

An embedding is what a classifier's last layer reads: pooled features, one vector a sample.
Letters in shapes: B batch, D student width, C teacher width.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.common import at_least_single, checked_number, embeddings_of, without_autocast
from lgkd.losses.maps import refuse_second_build


class RKD(nn.Module):
    """Distances between samples and angles among three, in the student as in the teacher.

        distances: d_ij = |x_i - x_j| / mean of those distances that are not 0
        angles: a_ijk = cosine between x_j - x_i and x_k - x_i, 0 where either is 0
        loss = distance_weight * mean over ij of H(d_ij - d'_ij) + angle_weight * mean over ijk of H(a_ijk - a'_ijk)

    H is Huber's loss with its bend at 1; the means run over all B^2 and B^3 entries, i = j included. Widths
    need not agree. Memory grows with B^2 D and B^3. It looks across the batch.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019 (arXiv 1904.05068), as RepDistiller and
    mdistiller compute it: factors 25 and 50, weight 1 beside 1 for the classification.

    Args:
        distance_weight: factor of the distances, >= 0.
        angle_weight: factor of the angles, >= 0.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = checked_number("RKD", "distance_weight", distance_weight)
        self.angle_weight = checked_number("RKD", "angle_weight", angle_weight)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """The loss, a scalar.

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


class CorrelationCongruence(nn.Module):
    """The batch's matrix of Gaussian kernels, in the student as in the teacher.

        c_ij = exp(-2 gamma) * sum over p = 0 .. order of (2 gamma x_i x_j)^p / p!,  x with unit L2 norm
        loss = mean over ij of (c_ij - c'_ij)^2

    c is the Taylor expansion of exp(-gamma |x_i - x_j|^2). The mean runs over the B^2 entries; widths need not
    agree, so nothing is projected. It looks across the batch.

    Source: described in Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019 (arXiv
    1904.01802), known here through others' code, gamma 0.4 and order 2 with it; no weight is known for this
    form. What RepDistiller has under that name is another quantity, of samples that happen to be neighbours
    in the batch: it changes with their order.

    Args:
        gamma: of the kernel, > 0.
        order: of the expansion, a whole number >= 1.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(self, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        self.gamma = checked_number("CorrelationCongruence", "gamma", gamma, above=0)
        if not isinstance(order, int) or isinstance(order, bool) or order < 1:
            raise InputError(f"CorrelationCongruence: order is {order!r}, expected a whole number >= 1")
        self.order = order

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """The loss, a scalar; arguments and errors as those of `RKD`."""
        student, teacher = embeddings_of("CorrelationCongruence", student_embedding, teacher_embedding)
        return F.mse_loss(self._kernel(student), self._kernel(teacher))

    def _kernel(self, embedding_BD: Tensor) -> Tensor:
        unit = F.normalize(embedding_BD, dim=1)
        with without_autocast(unit):
            cosines = unit @ unit.T
        terms = [(2 * self.gamma * cosines).pow(p) / math.factorial(p) for p in range(1, self.order + 1)]
        return math.exp(-2 * self.gamma) * (1 + sum(terms[1:], start=terms[0]))

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, order={self.order}"


class CrossCorrelation(nn.Module):
    """Each projected feature of the student goes with its feature of the teacher, and with no other.

        R = 1/B * z(P(S))^T z(T), (C,C);  z standardises each feature over the batch, variance with 1 / B
        loss = 1/C * ( sum over i of (R_ii - 1)^2 + kappa * sum over i != j of R_ij^2 )

    P is learned: a linear layer to `expansion` times the student's width, BatchNorm, GELU and a linear layer
    to the teacher's width, both without bias. z divides by sqrt(variance + 1e-5). It looks across the batch.

    Source: the idea is that of RSD, ICCV 2025 (arXiv 2507.21844), known here only through summaries and
    others' code: penultimate embeddings, a perceptron of two layers, the correlation pushed to the identity.
    Chosen here: the division by C, which makes the loss independent of the teacher's width, and `expansion`.
    No published weight is known for this form.

    Args:
        kappa: factor of the entries off the diagonal, >= 0.
        expansion: hidden width of the projection, as a multiple of the student's, a whole number >= 1.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(self, kappa: float = 0.01, expansion: int = 4) -> None:
        super().__init__()
        self.kappa = checked_number("CrossCorrelation", "kappa", kappa)
        if not isinstance(expansion, int) or isinstance(expansion, bool) or expansion < 1:
            raise InputError(f"CrossCorrelation: expansion is {expansion!r}, expected a whole number >= 1")
        self.expansion = expansion
        self.projection = nn.Sequential()

    def build(self, student_width: int, teacher_width: int) -> None:
        """Make the projection between these widths; a guide calls this once."""
        refuse_second_build(self, self.projection)
        hidden = self.expansion * student_width
        self.projection = nn.Sequential(
            nn.Linear(student_width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, teacher_width, bias=False),
        )

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            student_embedding: (B,D), B >= 2.
            teacher_embedding: (B,C).

        Raises:
            InputError: it was not built, there is one sample, or they are not embeddings of one batch.
        """
        if not len(self.projection):
            raise InputError("CrossCorrelation has no projection; call build(student_width, teacher_width) first")
        if len(student_embedding) < 2:
            raise InputError("CrossCorrelation: a batch of one has no correlations; use batches of 2 or more")
        student, teacher = embeddings_of("CrossCorrelation", self.projection(student_embedding), teacher_embedding)
        with without_autocast(student):
            correlations_CC = _standardized(student).T @ _standardized(teacher) / len(student)
        diagonal = correlations_CC.diagonal()
        wanted = (diagonal - 1).square().sum()
        unwanted = correlations_CC.square().sum() - diagonal.square().sum()
        return (wanted + self.kappa * unwanted) / len(diagonal)

    def extra_repr(self) -> str:
        return f"kappa={self.kappa:g}, expansion={self.expansion}"


def _differences(embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B,B) and unit vectors (B,B,D) from each sample to each other; 0 where two are the same."""
    differences = embedding_BD[None] - embedding_BD[:, None]
    squares = differences.square().sum(dim=2)
    apart = squares > 0
    # The root of 0 has no gradient: those entries are 1 before it and 0 after.
    distances = torch.where(apart, squares, 1.0).sqrt()
    return torch.where(apart, distances, 0.0), differences / distances[:, :, None]


def _by_mean(distances_BB: Tensor) -> Tensor:
    """Distances in units of their mean, in which zeros do not count."""
    count = (distances_BB > 0).sum()
    mean = distances_BB.sum() / count.clamp_min(1)
    return distances_BB / torch.where(count > 0, mean, 1.0)


def _standardized(embedding_BC: Tensor) -> Tensor:
    values = at_least_single(embedding_BC)
    centred = values - values.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + 1e-5).rsqrt()
