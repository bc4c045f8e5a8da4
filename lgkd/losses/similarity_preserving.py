"""Implement similarity-preserving distillation between feature maps.

Letters in shapes: B batch, D student width, C teacher width, h w map size.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.losses.base import at_least_single
from lgkd.losses.map_loss import similarity
from lgkd.losses.registry import register_loss


@register_loss("similarity-preserving", weight=3000.0, weight_help="Multiplies the sum over the guided layer pairs.")
class SimilarityPreserving(nn.Module):
    """Match the similarities between the samples of a batch, in student and teacher maps.

        G(F) = Gram matrix of the flattened maps, rows with unit L2 norm: (B, B)
        loss = sum over k of mean( (G(T_k) - G(S_k))^2 )

    The mean runs over the B^2 entries, which is the squared Frobenius norm divided by B^2. Maps are not
    resized: widths and grids need not agree. Depends on the whole batch.

    Source: Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), as
    implemented in mdistiller: weight 3000, with 1 for the classification.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = True

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar; maps (B,D_k,h,w) and (B,C_k,h',w'), one of each for each pair."""
        losses = [
            F.mse_loss(similarity(at_least_single(student)), similarity(at_least_single(teacher.detach())))
            for student, teacher in zip(student_maps, teacher_maps, strict=True)
        ]
        return sum(losses[1:], start=losses[0])
