"""Implement logit standardisation: match the shape of the logits, not their scale.

Letters in shapes: B batch, K classes.
"""

from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.dkd import DKD
from lgkd.losses.kd import KD
from lgkd.losses.registry import Bounds, Factor, Temperature, register_loss

Small = Annotated[float, Bounds(gt=0, le=10)]


def standardized(logits_BK: Tensor, eps: float = 1e-7) -> Tensor:
    """Standardise each sample's logits: (z - mean) / (std + eps), std with K - 1; (B,K).

    A sample whose logits are constant up to rounding (std <= 1e-6 of the largest) becomes zeros without
    gradient: the formula's would be of the order of 1 / eps, without a meaningful direction.
    """
    spread_B1 = logits_BK.std(dim=1, keepdim=True) if logits_BK.shape[1] > 1 else torch.zeros_like(logits_BK)
    flat_B1 = spread_B1 <= 1e-6 * logits_BK.detach().abs().amax(dim=1, keepdim=True)
    safe_B1 = torch.where(flat_B1, torch.ones_like(spread_B1), spread_B1)
    scaled = (logits_BK - logits_BK.mean(dim=1, keepdim=True)) / (safe_B1 + eps)
    return scaled.masked_fill(flat_B1, 0)


class _Standardized(nn.Module):
    """Apply a loss to standardised logits."""

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False

    def __init__(self, inner: KD | DKD, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.inner = inner

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar; arguments and errors as for `KD` or `DKD`."""
        student, teacher = logits_of(type(self).__name__, student_logits, teacher_logits)
        loss: Tensor = self.inner(standardized(student, self.eps), standardized(teacher, self.eps), targets)
        return loss

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"


@register_loss(
    "standardized-kd",
    weight=9.0,
    weight_help="Multiplies the divergence, which includes the factor temperature^2.",
)
class StandardizedKD(_Standardized):
    """Apply `KD` to standardised logits, the mean over the batch.

        loss = T^2 / B * sum over b of KL(softmax(z(teacher_b) / T) || softmax(z(student_b) / T)),
        z(v) = (v - mean(v)) / (std(v) + eps)

    Invariant to shift and scale of a sample's logits. The gradient grows as their spread shrinks: a student
    whose head starts at zero takes first steps of the order of 1 / spread, which a larger `eps` bounds.

    Source: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024 (arXiv 2403.01427), and
    the authors' code: weight 9 at T = 2, with 0.1 for the classification.

    Args:
        temperature: Standardised logits are divided by it before the softmax.
        eps: Added to the spread of a sample's logits; a larger one bounds the first steps of a head that starts at
            zero.
    """

    def __init__(self, temperature: Temperature = 2.0, eps: Small = 1e-7) -> None:
        super().__init__(KD(temperature), eps)


@register_loss(
    "standardized-dkd",
    weight=9.0,
    weight_help="Multiplies both parts, which include the factor temperature^2.",
)
class StandardizedDKD(_Standardized):
    """Apply `DKD` to standardised logits; see `StandardizedKD`.

    Source: as there. The authors' code, at weight 9, has effectively alpha 9, beta 81, T = 4: weight 9 with
    alpha 1, beta 9, with 1 for the classification.

    Args:
        alpha: Multiplies the divergence between the target and all other classes together.
        beta: Multiplies the divergence among the other classes.
        temperature: Standardised logits are divided by it before the softmax.
        eps: Added to the spread of a sample's logits; a larger one bounds the first steps of a head that starts at
            zero.
    """

    def __init__(
        self, alpha: Factor = 1.0, beta: Factor = 9.0, temperature: Temperature = 4.0, eps: Small = 1e-7
    ) -> None:
        super().__init__(DKD(alpha, beta, temperature), eps)
