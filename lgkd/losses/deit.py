"""Implement the distillation losses of DeiT, for a distillation token."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import logits_of
from lgkd.losses.binary_kd import BinaryKD
from lgkd.losses.kd import KD, Mean
from lgkd.losses.registry import Temperature, register_loss


@register_loss(
    "deit-soft",
    weight=0.1,
    weight_help="Multiplies the divergence, which includes the factor temperature^2.",
)
class DeiTSoft(KD):
    """Apply `KD` to the logits of a distillation token's head.

    Source: Touvron et al., Training data-efficient image transformers, ICML 2021 (arXiv 2012.12877): weight
    0.1 at T = 3, with 0.9 for the classification by the class token. The authors' code takes the mean over
    the elements; the default here is the mean over the batch.

    Args:
        temperature: Logits are divided by it before the softmax.
        mean: Sum over classes and mean over the batch, or mean over both, as in the authors' code.
    """

    reads: ClassVar[str] = "distillation"

    def __init__(self, temperature: Temperature = 3.0, mean: Mean = "batch") -> None:
        super().__init__(temperature, mean)

    def per_class(self) -> nn.Module:
        """Return the form for several labels an image."""
        return _BinaryDeiT(self.temperature)


class _BinaryDeiT(BinaryKD):
    """Apply `BinaryKD` to the logits of a distillation token's head."""

    reads: ClassVar[str] = "distillation"


@register_loss("deit-hard", weight=0.5, weight_help="Multiplies the cross entropy.")
class DeiTHard(nn.Module):
    """Train a distillation token's head on the teacher's decision as its label.

        loss = - 1/B * sum over b of log softmax(student)_b at argmax over k of teacher_bk

    Source: as `DeiTSoft`; weight 0.5, with 0.5 for the classification by the class token.
    """

    reads: ClassVar[str] = "distillation"
    across_batch: ClassVar[bool] = False

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Compute the loss, a scalar.

        Args:
            student_logits: (B,K), of the distillation head.
            teacher_logits: (B,K).
            targets: not read.

        Raises:
            InputError: the logits do not both have the same shape (B,K).
        """
        student, teacher = logits_of("DeiTHard", student_logits, teacher_logits)
        return F.cross_entropy(student, teacher.argmax(dim=1))
