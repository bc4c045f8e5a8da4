"""Implement distillation of logits into exits at intermediate layers of the student.

Letters in shapes: B batch, K classes, D student width, h w map size.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from lgkd.losses.base import at_least_single, refuse_unbuilt
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import Bounds, Temperature, register_loss
from lgkd.losses.target_enhanced_kd import TargetEnhancedKD

_GRID = 7
"""Positions a side that an exit works on, as in the source: 14 x 14 are merged to 7 x 7."""
_HEADS = 4


@register_loss("early-exits", weight=1.0, weight_help="Multiplies the sum over the exits, each a mean over the batch.")
class EarlyExits(nn.Module):
    """Classify at every tap of the student by a small exit, and distill the teacher's logits into each.

        loss = sum over taps k of TargetEnhancedKD(exit_k(S_k), teacher logits, targets)

    Each exit merges 2 x 2 positions while the map has at least 14 a side (layer norm, linear layer, GELU), runs
    transformer blocks of 4 heads, averages the positions and classifies: the last of n taps by one block, the ones
    before it by n-1, n-2, ... 1. Exits are dropped after training. Intermediate layers so learn the teacher's classes
    and not its maps, which another architecture need not resemble. The logits of the student itself are another
    term, `target-enhanced-kd`.

    Source: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
    NeurIPS 2023 (arXiv 2310.19444), as in the authors' code: weight 1 for the exits, for the logits and for the
    classification, gamma 1, T = 1, first weights from a normal distribution of 0.02 cut at two. There taps are the ends
    of four quarters of the depth, the exits of students with a class token read it, and exits of CNNs are separable
    convolutions; here the positions are averaged and all exits are transformers.

    Args:
        gamma: Power of the teacher's probabilities, after 1 is added to that of the target.
        temperature: Logits are divided by it before the softmax.
    """

    reads: ClassVar[str] = "exits"
    across_batch: ClassVar[bool] = False

    def __init__(self, gamma: Annotated[float, Bounds(gt=0, le=10)] = 1.0, temperature: Temperature = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.temperature = temperature
        self.distill = TargetEnhancedKD(gamma, temperature)
        self.exits = nn.ModuleList()

    def build(self, student_shapes: Sequence[MapShape], classes: int) -> None:
        """Create an exit for each of the student's maps, shapes (D,h,w); a guide calls this once.

        Raises:
            InputError: it is built already.
        """
        refuse_second_build(self, self.exits)
        count = len(student_shapes)
        width = student_shapes[-1][0]
        self.exits = nn.ModuleList(
            Exit(shape, width, classes, blocks=max(count - number, 1))
            for number, shape in enumerate(student_shapes, start=1)
        )

    def forward(self, student_maps: Sequence[Tensor], teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            student_maps: maps (B,D_k,h,w) of the student's taps.
            teacher_logits: (B,K).
            targets: class numbers (B,), or probabilities (B,K).

        Raises:
            InputError: it was not built, or for another number of maps.
        """
        refuse_unbuilt("EarlyExits", len(self.exits), len(student_maps))
        losses = [
            self.distill(at_least_single(leave(one)), teacher_logits, targets)
            for leave, one in zip(self.exits, student_maps, strict=True)
        ]
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, temperature={self.temperature:g}"


class Exit(nn.Module):
    """Classify a map by merged positions, transformer blocks, their mean and a linear layer: (B,D,h,w) -> (B,K).

    Args:
        shape: of the map, (D,h,w).
        width: of the blocks, that of the student's last map.
        classes: K.
        blocks: number of transformer blocks, of 4 heads, or of 2 or 1 where 4 do not divide the width.
    """

    def __init__(self, shape: MapShape, width: int, classes: int, *, blocks: int) -> None:
        super().__init__()
        given, *sides = shape
        merges = max(int(math.log2(min(sides) / _GRID)), 0)
        self.merges = nn.ModuleList(_Merge(given if not number else width, width) for number in range(merges))
        # Maps of an early stage of a pyramid have another width, and no merge that changes it.
        self.widen = nn.Linear(given, width) if not merges and given != width else nn.Identity()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                math.gcd(width, _HEADS),
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(blocks)
        )
        self.classify = nn.Linear(width, classes)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.trunc_normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, map_BDhw: Tensor) -> Tensor:
        x = map_BDhw.permute(0, 2, 3, 1)
        for merge in self.merges:
            x = merge(x)
        tokens = self.widen(x.flatten(1, 2))
        for block in self.blocks:
            tokens = block(tokens)
        return self.classify(tokens.mean(dim=1))  # type: ignore[no-any-return]


class _Merge(nn.Module):
    """Merge 2 x 2 positions into one, the last of an odd number left out: (B,h,w,D) -> (B,h/2,w/2,width)."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * given)
        self.reduce = nn.Linear(4 * given, width, bias=False)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        height, across = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        x = x[:, :height, :across]
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=3)
        return self.activation(self.reduce(self.norm(x)))  # type: ignore[no-any-return]
