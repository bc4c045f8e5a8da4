"""Implement knowledge distillation of every class by itself, for images with several labels.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.registry import Temperature, register_loss


@register_loss(
    "binary-kd", weight=1.0, weight_help="Multiplies the divergence, which includes the factor temperature^2."
)
class BinaryKD(nn.Module):
    """Distill the teacher's softened probability of every class by itself: one against all others.

        loss = T^2 / (B K) * sum over b and k of p_bk log(p_bk / q_bk) + (1 - p_bk) log((1 - p_bk) / (1 - q_bk)),
        p = sigmoid(teacher / T), q = sigmoid(student / T)

    Each class is a Bernoulli variable, so that nothing is shared between classes, as in binary cross entropy. The mean
    runs over batch and classes, like that of lgkd's binary cross entropy; with mean "batch" it is a sum over classes,
    K times larger. Computed from logarithms: finite for any finite logits, in at least float32.

    Source: Yang et al., Multi-Label Knowledge Distillation, ICCV 2023 (arXiv 2308.06453): "multi-label logits
    distillation", with T = 1 and mean "batch"; its authors' weight of 10 is for a cross entropy summed over the batch.

    Args:
        temperature: Logits are divided by it before the sigmoid.
        mean: Mean over batch and classes, or sum over the classes and mean over the batch, which is larger.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False
    multi_label: ClassVar[bool] = True

    def __init__(self, temperature: Temperature = 1.0, mean: Literal["elements", "batch"] = "elements") -> None:
        super().__init__()
        self.temperature = temperature
        self.mean = mean

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the loss, a scalar.

        Args:
            student_logits, teacher_logits: (B,K).
            targets: not read.

        Raises:
            InputError: the logits do not both have the same shape (B,K).
        """
        student, teacher = logits_of(type(self).__name__, student_logits, teacher_logits)
        student, teacher = student / self.temperature, teacher / self.temperature
        yes, no = F.logsigmoid(teacher), F.logsigmoid(-teacher)
        gap_BK = yes.exp() * (yes - F.logsigmoid(student)) + no.exp() * (no - F.logsigmoid(-student))
        loss = self.temperature**2 * gap_BK.mean()
        return loss * student.shape[1] if self.mean == "batch" else loss

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, mean={self.mean!r}"
