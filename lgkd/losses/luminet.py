"""Implement LumiNet, distillation of logits standardised per class.

Letters in shapes: B batch, K classes.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.kd import divergence
from lgkd.losses.registry import Temperature, register_loss


@register_loss(
    "luminet",
    weight=1089.0,
    weight_help="Multiplies the divergence; the square of the published alpha, 33, for one pair of networks.",
)
class LumiNet(nn.Module):
    """Distill softened logits after standardising each class over the batch.

        h(z)_bk = (z_bk - mean over b of z_bk) / sqrt(variance over b of z_bk + 1e-5), variance with 1 / B
        loss = 1/B * sum over b of KL(softmax(h(teacher)_b / T) || softmax(h(student)_b / T))

    There is no T^2: the authors' code has the square of its weight alpha instead. Depends on the whole
    batch: a batch of one gives 0.

    Source: LumiNet, TMLR 2025, and the authors' code (github.com/ismail31416/LumiNet): T = 4, alpha 33 for
    resnet32x4 -> resnet8x4, which is a weight of 1089 with 2 for the classification; warm-up.

    Args:
        temperature: Standardised logits are divided by it before the softmax.
    """

    reads: ClassVar[str] = "logits"
    across_batch: ClassVar[bool] = True

    def __init__(self, temperature: Temperature = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the loss, a scalar; arguments and errors as for `KD`."""
        student, teacher = logits_of("LumiNet", student_logits, teacher_logits)
        student_log = F.log_softmax(_by_class(student) / self.temperature, dim=1)
        teacher_log = F.log_softmax(_by_class(teacher) / self.temperature, dim=1)
        return divergence(teacher_log, student_log).mean()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


def _by_class(logits_BK: Tensor) -> Tensor:
    centred = logits_BK - logits_BK.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + 1e-5).rsqrt()
