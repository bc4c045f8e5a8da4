"""Correlation of predictions instead of their equality.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.registry import Factor, Temperature, register_loss

# Squared norms below this, of vectors whose largest entry is 1, are rounding: such a vector has no direction.
_NO_DIRECTION = 1e-12


@register_loss("dist", weight=1.0, weight_help="Multiplies both parts, which hold the square of the temperature.")
class DIST(nn.Module):
    """Pearson's correlation of the two softened predictions, within samples and within classes.

        inter = 1 - mean over samples b of corr(p_b., q_b.)
        intra = 1 - mean over classes k of corr(p_.k, q_.k)
        loss = T^2 (beta inter + gamma intra),  p, q = softmax(teacher / T), softmax(student / T)

    Correlation ignores shift and scale, so each class's column is first divided by its largest entry: a
    class that is next to empty in this batch counts like any other and does not drown in the epsilon of a
    division, as it does in some codes. A vector without spread has correlation 0 and no gradient. The
    gradient grows as the spread shrinks: a head that starts at zero sees very large ones in its first
    steps. The intra part looks across the batch.

    Source: Huang et al., Knowledge Distillation from a Stronger Teacher, NeurIPS 2022 (arXiv 2205.10536),
    as torchdistill computes it: weight 1 with beta 1, gamma 1, T = 1, beside 1 for the classification.

    Args:
        beta: Multiplies the part within samples.
        gamma: Multiplies the part within classes, which looks across the batch.
        temperature: Logits are divided by it before the softmax.
    """

    reads: ClassVar[str] = "logits"

    def __init__(self, beta: Factor = 1.0, gamma: Factor = 1.0, temperature: Temperature = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    @property
    def across_batch(self) -> bool:
        """Whether a sample's loss depends on the other samples of the batch."""
        return self.gamma > 0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """The loss, a scalar.

        Args:
            student_logits, teacher_logits: (B,K).
            targets: not read.

        Raises:
            InputError: the logits are not two equal (B,K).
        """
        student, teacher = logits_of("DIST", student_logits, teacher_logits)
        student = F.log_softmax(student / self.temperature, dim=1)
        teacher = F.log_softmax(teacher / self.temperature, dim=1)
        inter = 1 - _correlation(student, teacher).mean()
        intra = 1 - _correlation(student.T, teacher.T).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, gamma={self.gamma:g}, temperature={self.temperature:g}"


def _correlation(first_log: Tensor, second_log: Tensor) -> Tensor:
    """Pearson's correlation of the rows of two matrices that are given by their logarithms."""
    first, second = _centred(first_log), _centred(second_log)
    squares = first.square().sum(dim=1), second.square().sum(dim=1)
    directed = (squares[0] > _NO_DIRECTION) & (squares[1] > _NO_DIRECTION)
    # Chosen before the root and after the division: neither value nor gradient meets a zero.
    norms = torch.where(directed, squares[0] * squares[1], 1.0).sqrt()
    return torch.where(directed, (first * second).sum(dim=1) / norms, 0.0)


def _centred(logs: Tensor) -> Tensor:
    # The largest entry is no more than a unit of measurement: correlation does not change with it, nor its gradient.
    rows = (logs - logs.detach().amax(dim=1, keepdim=True)).exp()
    return rows - rows.mean(dim=1, keepdim=True)
