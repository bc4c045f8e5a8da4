"""Implement the cross-correlation loss between embeddings.

Letters in shapes: B batch, D student width, C teacher width.
"""

from typing import Annotated, ClassVar

from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, embeddings_of, without_autocast
from lgkd.losses.map_loss import refuse_second_build
from lgkd.losses.registry import Bounds, Factor, register_loss


@register_loss("cross-correlation", weight=1.0, weight_help="Multiplies the loss; no published weight is known.")
class CrossCorrelation(nn.Module):
    """Correlate each projected feature of the student with its feature of the teacher only.

        R = 1/B * z(P(S))^T z(T), (C,C);  z standardises each feature over the batch, variance with 1 / B
        loss = 1/C * ( sum over i of (R_ii - 1)^2 + kappa * sum over i != j of R_ij^2 )

    P is learned: a linear layer to `expansion` times the student's width, BatchNorm, GELU and a linear layer
    to the teacher's width, both without bias. z divides by sqrt(variance + 1e-5). Depends on the whole batch.

    Source: the idea of RSD, ICCV 2025 (arXiv 2507.21844), known here only through summaries and third-party
    code: penultimate embeddings, a two-layer perceptron, the correlation pulled towards the identity.
    Chosen here: the division by C, which makes the loss independent of the teacher's width, and `expansion`.
    No published weight is known for this form.

    Args:
        kappa: Multiplies the squares of the correlations between different features.
        expansion: Hidden width of the student's projection, as a multiple of its embedding's width.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True

    def __init__(self, kappa: Factor = 0.01, expansion: Annotated[int, Bounds(ge=1, le=64)] = 4) -> None:
        super().__init__()
        self.kappa = kappa
        self.expansion = expansion
        self.projection = nn.Sequential()

    def build(self, student_width: int, teacher_width: int) -> None:
        """Create the projection between the given widths; a guide calls this once."""
        refuse_second_build(self, self.projection)
        hidden = self.expansion * student_width
        self.projection = nn.Sequential(
            nn.Linear(student_width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, teacher_width, bias=False),
        )

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_embedding: (B,D), B >= 2.
            teacher_embedding: (B,C).

        Raises:
            InputError: it was not built, there is one sample, or they are not embeddings of one batch.
        """
        if not len(self.projection):
            raise InputError("CrossCorrelation has no projection; call build(student_width, teacher_width) first")
        if len(student_embedding) < 2:
            raise InputError("CrossCorrelation: a batch of one has no correlations; use batches of 2 or more")
        student, teacher = embeddings_of("CrossCorrelation", self.projection(student_embedding), teacher_embedding)
        with without_autocast(student):
            correlations_CC = _standardized(student).T @ _standardized(teacher) / len(student)
        diagonal = correlations_CC.diagonal()
        wanted = (diagonal - 1).square().sum()
        unwanted = correlations_CC.square().sum() - diagonal.square().sum()
        return (wanted + self.kappa * unwanted) / len(diagonal)

    def extra_repr(self) -> str:
        return f"kappa={self.kappa:g}, expansion={self.expansion}"


def _standardized(embedding_BC: Tensor) -> Tensor:
    values = at_least_single(embedding_BC)
    centred = values - values.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + 1e-5).rsqrt()
