"""Implement the form of `KD` for images with several labels: every class is distilled by itself.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of


class BinaryKD(nn.Module):
    """Distill the teacher's softened probability of every class by itself: one against all others.

        loss = T^2 / (B K) * sum over b and k of p_bk log(p_bk / q_bk) + (1 - p_bk) log((1 - p_bk) / (1 - q_bk)),
        p = sigmoid(teacher / T), q = sigmoid(student / T)

    Each class is a Bernoulli variable, so that nothing is shared between classes, as in binary cross entropy. The mean
    runs over batch and classes, like that of lgkd's binary cross entropy, so that the two keep their ratio for any
    number of classes. Computed from logarithms: finite for any finite logits, in at least float32.

    Source: "multi-label logits distillation" of Yang et al., Multi-Label Knowledge Distillation, ICCV 2023 (arXiv
    2308.06453), who take T = 1 and a sum over the classes.

    Args:
        temperature: Logits are divided by it before the sigmoid; above 0.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False
    multi_label: ClassVar[bool] = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

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
        return self.temperature**2 * gap_BK.mean()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
