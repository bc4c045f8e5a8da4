"""Implement decoupled knowledge distillation: target class and other classes weighted separately.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import logits_of
from lgkd.losses.kd import divergence
from lgkd.losses.registry import Factor, Temperature, register_loss


@register_loss("dkd", weight=1.0, weight_help="Multiplies both parts, which include the factor temperature^2.")
class DKD(nn.Module):
    """Decouple the divergence of distillation into two parts with separate factors.

    For a sample with target y, softened probabilities p (teacher) and q (student):

        TCKD = KL between the pairs (p_y, 1 - p_y) and (q_y, 1 - q_y)
        NCKD = KL between p and q over the classes other than y, each divided by its sum
        loss = T^2 * mean over the batch of (alpha TCKD + beta NCKD)

    Plain distillation is alpha = 1 and beta = 1 - p_y. Targets that are probabilities (mixed labels) count
    as their most probable class, the first if tied. Computed from logarithms: log(1 - q_y) is a log-sum-exp
    over the other classes, so saturated logits give large losses and no infinities.

    Source: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022 (arXiv 2203.08679), and mdistiller:
    weight 1 with alpha 1, beta 8, T = 4, with 1 for the classification; 20 epochs of warm-up.

    Args:
        alpha: Multiplies the divergence between the target and all other classes together.
        beta: Multiplies the divergence among the other classes.
        temperature: Logits are divided by it before the softmax.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False

    def __init__(self, alpha: Factor = 1.0, beta: Factor = 8.0, temperature: Temperature = 4.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_logits, teacher_logits: (B,K), K >= 2.
            targets: class numbers (B,), int64, or probabilities (B,K).

        Raises:
            InputError: the logits do not both have the same shape (B,K), or there is a single class.
        """
        student, teacher = logits_of("DKD", student_logits, teacher_logits)
        if student.shape[1] < 2:
            raise InputError("DKD compares the classes other than the target, got a single class; use KD")
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        is_target = F.one_hot(labels, student.shape[1]).bool()
        student_split, student_rest = _parts(student / self.temperature, is_target)
        teacher_split, teacher_rest = _parts(teacher / self.temperature, is_target)
        target_part = divergence(teacher_split, student_split)
        other_part = (teacher_rest.exp() * (teacher_rest - student_rest)).masked_fill(is_target, 0).sum(dim=1)
        return self.temperature**2 * (self.alpha * target_part + self.beta * other_part).mean()

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"


def _parts(logits_BK: Tensor, is_target_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log-probabilities of (target, others), (B,2), and within the others, (B,K) with 0 at the target."""
    whole_B = logits_BK.logsumexp(dim=1)
    others_B = logits_BK.masked_fill(is_target_BK, -torch.inf).logsumexp(dim=1)
    target_B = logits_BK.masked_fill(~is_target_BK, 0).sum(dim=1)
    split_B2 = torch.stack([target_B - whole_B, others_B - whole_B], dim=1)
    return split_B2, (logits_BK - others_B[:, None]).masked_fill(is_target_BK, 0)
