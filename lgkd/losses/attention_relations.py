"""Implement distillation of a transformer's relations between queries, keys and values.

Letters in shapes: B batch, D student width, C teacher width, h w map size, N = h w positions, H heads of width d.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_coarser_grid, at_least_single, without_autocast
from lgkd.losses.kd import divergence
from lgkd.losses.registry import Bounds, register_loss


@register_loss(
    "attention-relations",
    weight=1.0,
    weight_help="Multiplies the sum over the guided layer pairs and both relations.",
)
class AttentionRelations(nn.Module):
    """Match how positions of an image attend to each other in a transformer that teaches another one.

        R_qk = softmax over n of q_m . k_n / sqrt(d),  R_vv = softmax over n of v_m . v_n / sqrt(d): (B,H,N,N)
        loss = sum over layer pairs and both relations of mean over b, head, m of KL(R(T)_m || R(S)_m)

    Both taps are fused projections of an attention, `blocks.K.attn.qkv` in timm's and lgkd's plain ViTs, whose 3D
    channels are queries, keys and values in this order (`lgkd layers MODEL` lists them). Each third is cut into
    `heads` equal heads; with the heads of a model R_qk are its attention weights. Widths and depths need not agree,
    as relations have one size for both. Patch positions alone are compared, not class tokens, and finer maps are
    averaged to the coarser grid. For teachers with attention: a guided ViT can teach a smaller one; a CNN cannot.

    Source: the first stage of patient teaching (repository newLLing/CIKD, 2025): the first and the last block,
    weight 1, class token among the positions, alone for 300 epochs and without labels. There the student is given the
    teacher's number of heads in its last block; cutting both into equal heads instead is from Wang et al., MiniLMv2,
    arXiv 2012.15828.

    Args:
        heads: Number of heads that both are cut into, H; it divides both widths.
    """

    reads: ClassVar[str] = "maps"
    across_batch: ClassVar[bool] = False

    def __init__(self, heads: Annotated[int, Bounds(ge=1, le=256)] = 4) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar; maps (B,3D_k,h,w) and (B,3C_k,h',w'), one of each for each pair.

        Raises:
            InputError: channels that are not queries, keys and values of so many heads.
        """
        losses = []
        for student, teacher in zip(student_maps, teacher_maps, strict=True):
            pair = at_coarser_grid(at_least_single(student), at_least_single(teacher.detach()))
            ours, theirs = (self._relations(one) for one in pair)
            losses += [divergence(right, left).mean() for left, right in zip(ours, theirs, strict=True)]
        return sum(losses[1:], start=losses[0])

    def _relations(self, map_BChw: Tensor) -> list[Tensor]:
        """Compute log R_qk and log R_vv, rows of all images and heads one below the other: (B H N, N)."""
        count, channels = map_BChw.shape[:2]
        if channels % (3 * self.heads):
            raise InputError(
                f"AttentionRelations: a tap has {channels} channels, expected queries, keys and values of {self.heads} "
                "heads, a multiple of 3 x heads; tap fused projections, as blocks.0.attn.qkv, of both, and set `heads` "
                "to a common divisor of their widths"
            )
        size = channels // (3 * self.heads)
        query, key, value = map_BChw.reshape(count, 3, self.heads, size, -1).unbind(1)
        scale = size**-0.5
        with without_autocast(map_BChw):
            products = [query.mT @ key * scale, value.mT @ value * scale]
        return [F.log_softmax(one, dim=3).flatten(0, 2) for one in products]

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
