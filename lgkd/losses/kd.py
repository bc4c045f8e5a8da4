"""Implement knowledge distillation between logits.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.binary_kd import BinaryKD
from lgkd.losses.registry import Temperature, register_loss

Mean = Literal["batch", "elements"]


def divergence(teacher_log_BK: Tensor, student_log_BK: Tensor) -> Tensor:
    """Compute KL(teacher || student) of each sample, (B,), from log-probabilities."""
    return (teacher_log_BK.exp() * (teacher_log_BK - student_log_BK)).sum(dim=1)


def soft_targets(student_BK: Tensor, teacher_BK: Tensor, temperature: float, mean: Mean) -> Tensor:
    """Compute T^2 KL(softmax(teacher / T) || softmax(student / T)), a scalar; see `KD`."""
    student_log = F.log_softmax(student_BK / temperature, dim=1)
    teacher_log = F.log_softmax(teacher_BK / temperature, dim=1)
    loss = temperature**2 * divergence(teacher_log, student_log).mean()
    return loss / student_BK.shape[1] if mean == "elements" else loss


@register_loss("kd", weight=0.9, weight_help="Multiplies the divergence, which includes the factor temperature^2.")
class KD(nn.Module):
    """Distill the teacher's softened class probabilities.

        loss = T^2 / B * sum over b and k of p_bk (log p_bk - log q_bk),
        p = softmax(teacher / T), q = softmax(student / T)

    The mean runs over the batch, the sum over the classes; T^2 keeps the gradient's size when T changes.
    With mean "elements" the sum is divided by B K instead, which makes it K times smaller, as in several
    published implementations, whose weights have that scale. Computed from logarithms: finite for any
    finite logits, in at least float32. With several labels an image the divergence is that of every class by itself
    (`lgkd.losses.binary_kd`), of the same temperature.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531); common
    weights are 0.9 at T = 4, with 0.1 for the classification.

    Args:
        temperature: Logits are divided by it before the softmax.
        mean: Sum over classes and mean over the batch, or mean over both, which is smaller by the number of classes.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = False

    def __init__(self, temperature: Temperature = 4.0, mean: Mean = "batch") -> None:
        super().__init__()
        self.temperature = temperature
        self.mean: Mean = mean

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the loss, a scalar.

        Args:
            student_logits, teacher_logits: (B,K).
            targets: not read.

        Raises:
            InputError: the logits do not both have the same shape (B,K).
        """
        student, teacher = logits_of(type(self).__name__, student_logits, teacher_logits)
        return soft_targets(student, teacher, self.temperature, self.mean)

    def per_class(self) -> nn.Module:
        """Return the form for several labels an image: `BinaryKD`, whose mean is that of the classification loss."""
        return BinaryKD(self.temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, mean={self.mean!r}"
