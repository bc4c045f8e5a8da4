"""Implement distillation with an enhanced target class, made for teachers of another architecture.

Letters in shapes: B batch, K classes.
"""

from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.registry import Bounds, Temperature, register_loss


@register_loss("target-enhanced-kd", weight=1.0, weight_help="Multiplies the mean over the batch.")
class TargetEnhancedKD(nn.Module):
    """Distill logits with a weight of the target class that grows with the teacher's confidence in it.

    For a sample with target y, softened probabilities p (teacher) and q (student), and t_k = 1 for k = y, else 0:

        loss = - 1/B * sum over b and k of ((p_bk + t_bk)^gamma - t_bk) log q_bk

    With gamma = 1 it is the cross entropy between p and q. A larger gamma weighs the target more, by
    (1 + p_y)^gamma - 1, and the other classes less, by p_k^gamma. There is no factor T^2. Targets that are
    probabilities (mixed labels) count as their most probable class, the first if tied. Computed from
    log-probabilities, so that saturated logits give large losses and no infinities.

    Source: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation, NeurIPS 2023 (arXiv 2310.19444), the loss of the final logits, as in the authors' code, where
    gamma is eps: gamma 1 (1.5 in an example for ImageNet), T = 1, weight 1, with 1 for the classification.
    Their early exits are not part of it.

    Args:
        gamma: Power of the teacher's probabilities, after 1 is added to that of the target.
        temperature: Logits are divided by it before the softmax.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False

    def __init__(self, gamma: Annotated[float, Bounds(gt=0, le=10)] = 1.0, temperature: Temperature = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar; arguments and errors as for `KD`."""
        student, teacher = logits_of("TargetEnhancedKD", student_logits, teacher_logits)
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        is_target = F.one_hot(labels, student.shape[1]).to(student.dtype)
        known = F.softmax(teacher / self.temperature, dim=1) + is_target
        weights = (known if self.gamma == 1 else known.pow(self.gamma)) - is_target
        return -(weights * F.log_softmax(student / self.temperature, dim=1)).sum(dim=1).mean()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, temperature={self.temperature:g}"
