"""Implement DIST, which matches correlations of predictions instead of the predictions.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.registry import Factor, Temperature, register_loss

# Squared norms below this, of vectors with largest entry 1, are rounding errors: such a vector has no direction.
_NO_DIRECTION = 1e-12


@register_loss("dist", weight=1.0, weight_help="Multiplies both parts, which include the factor temperature^2.")
class DIST(nn.Module):
    """Maximise Pearson's correlation of the softened predictions, within samples and within classes.

        inter = 1 - mean over samples b of corr(p_b., q_b.)
        intra = 1 - mean over classes k of corr(p_.k, q_.k)
        loss = T^2 (beta inter + gamma intra),  p, q = softmax(teacher / T), softmax(student / T)

    Correlation ignores shift and scale, so each class's column is first divided by its largest entry: a
    class that is nearly empty in this batch counts like any other and is not lost in the epsilon of a
    division, as in some implementations. A vector without spread has correlation 0 and no gradient. The
    gradient grows as the spread shrinks: a head that starts at zero has very large ones in its first
    steps. The intra part depends on the whole batch.

    Source: Huang et al., Knowledge Distillation from a Stronger Teacher, NeurIPS 2022 (arXiv 2205.10536),
    as implemented in torchdistill: weight 1 with beta 1, gamma 1, T = 1, with 1 for the classification.

    Args:
        beta: Multiplies the part within samples.
        gamma: Multiplies the part within classes, which depends on the whole batch.
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
        """Return True if a sample's loss depends on the other samples of the batch."""
        return self.gamma > 0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the loss, a scalar; arguments and errors as for `KD`."""
        student, teacher = logits_of("DIST", student_logits, teacher_logits)
        student = F.log_softmax(student / self.temperature, dim=1)
        teacher = F.log_softmax(teacher / self.temperature, dim=1)
        inter = 1 - _correlation(student, teacher).mean()
        intra = 1 - _correlation(student.T, teacher.T).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, gamma={self.gamma:g}, temperature={self.temperature:g}"


def _correlation(first_log: Tensor, second_log: Tensor) -> Tensor:
    """Compute Pearson's correlation of the rows of two matrices given by their logarithms."""
    first, second = _centred(first_log), _centred(second_log)
    squares = first.square().sum(dim=1), second.square().sum(dim=1)
    directed = (squares[0] > _NO_DIRECTION) & (squares[1] > _NO_DIRECTION)
    # Selected before the root and after the division, so that neither value nor gradient divides by zero.
    norms = torch.where(directed, squares[0] * squares[1], 1.0).sqrt()
    return torch.where(directed, (first * second).sum(dim=1) / norms, 0.0)


def _centred(logs: Tensor) -> Tensor:
    # The largest entry is only a unit of scale: neither the correlation nor its gradient depends on it.
    rows = (logs - logs.detach().amax(dim=1, keepdim=True)).exp()
    return rows - rows.mean(dim=1, keepdim=True)
