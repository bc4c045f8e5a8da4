"""Implement correlation congruence between embeddings.

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
    """Match the Gaussian kernel matrices of the student's and the teacher's embeddings of a batch.

        c_ij = exp(-2 gamma) * sum over p = 0 .. order of (2 gamma x_i x_j)^p / p!,  x with unit L2 norm
        loss = mean over ij of (c_ij - c'_ij)^2

    c is the Taylor expansion of exp(-gamma |x_i - x_j|^2). The mean runs over the B^2 entries; widths need not
    agree, so there is no projection. Depends on the whole batch.

    Source: described in Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019 (arXiv
    1904.01802), known here through third-party code, as are gamma 0.4 and order 2; no weight is known for this
    form. RepDistiller's loss of that name is a different quantity, of adjacent samples in the batch: it
    changes with their order.

    Args:
        gamma: Coefficient of the kernel exp(-gamma distance^2) between embeddings of unit norm.
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
        """Compute the loss, a scalar; arguments and errors as for `RKD`."""
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
