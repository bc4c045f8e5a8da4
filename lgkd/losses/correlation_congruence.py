"""Correlation congruence between embeddings.

Letters in shapes: B batch, D student width, C teacher width.
"""

import math
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import embeddings_of, without_autocast
from lgkd.losses.registry import Bounds, register_loss


@register_loss("cc", weight=1.0, weight_help="Multiplies the mean squared difference; no published weight is known.")
class CorrelationCongruence(nn.Module):
    """The batch's matrix of Gaussian kernels, in the student as in the teacher.

        c_ij = exp(-2 gamma) * sum over p = 0 .. order of (2 gamma x_i x_j)^p / p!,  x with unit L2 norm
        loss = mean over ij of (c_ij - c'_ij)^2

    c is the Taylor expansion of exp(-gamma |x_i - x_j|^2). The mean runs over the B^2 entries; widths need not
    agree, so nothing is projected. It looks across the batch.

    Source: described in Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019 (arXiv
    1904.01802), known here through others' code, gamma 0.4 and order 2 with it; no weight is known for this
    form. What RepDistiller has under that name is another quantity, of samples that happen to be neighbours
    in the batch: it changes with their order.

    Args:
        gamma: Of the kernel exp(-gamma distance^2) between embeddings of length 1.
        order: Order of the kernel's Taylor expansion.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(
        self,
        gamma: Annotated[float, Bounds(gt=0, le=100)] = 0.4,
        order: Annotated[int, Bounds(ge=1, le=10)] = 2,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.order = order

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """The loss, a scalar; arguments and errors as those of `RKD`."""
        student, teacher = embeddings_of("CorrelationCongruence", student_embedding, teacher_embedding)
        return F.mse_loss(self._kernel(student), self._kernel(teacher))

    def _kernel(self, embedding_BD: Tensor) -> Tensor:
        unit = F.normalize(embedding_BD, dim=1)
        with without_autocast(unit):
            cosines = unit @ unit.T
        terms = [(2 * self.gamma * cosines).pow(p) / math.factorial(p) for p in range(1, self.order + 1)]
        return math.exp(-2 * self.gamma) * (1 + sum(terms[1:], start=terms[0]))

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, order={self.order}"
