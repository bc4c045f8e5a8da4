"""Tasks: what turns a batch into a step. The training loop knows tasks, not teachers.

Letters in shapes: B batch, K classes, H W image size.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.guide import Guide


@dataclass(frozen=True)
class Batch:
    """What a task is given.

    Args:
        images: (B,3,H,W), normalised for the student.
        targets: class numbers, int64 (B,), or distributions over classes, float (B,K).
    """

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Step:
    """What a task hands back.

    Attributes:
        loss: the scalar to descend: the sum of the parts times their weights.
        logits: (B,K).
        parts: scalars by name, not weighted, for the log.
    """

    loss: Tensor
    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Supervised(nn.Module):
    """Learn the labels: mean cross entropy against class numbers or distributions.

    Used for teachers and for students without a guide.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images)
        loss = _cross_entropy(logits, batch.targets)
        return Step(loss, logits, {"classification": loss.detach()})


class Guided(nn.Module):
    """Learn the labels and imitate the teacher at the same time (dual task).

        loss = cross entropy + sum over terms of weight * term

    `parameters()` are the student's and those of the terms (projections), never the teacher's.

    Args:
        student: the model that `guide` was made for.
        guide: its guide.
    """

    def __init__(self, student: nn.Module, guide: Guide) -> None:
        super().__init__()
        self.student = student
        self.guide = guide

    def forward(self, batch: Batch) -> Step:
        logits, maps = self.guide.read(self.student, batch.images)
        classification = _cross_entropy(logits, batch.targets)
        terms = self.guide(batch.images, maps)
        loss = classification
        for name, value in terms.items():
            loss = loss + self.guide.weights[name] * value
        parts = {"classification": classification, **terms}
        return Step(loss, logits, {name: value.detach() for name, value in parts.items()})


Task = Supervised | Guided


def _cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy, never in half precision."""
    if logits_BK.dtype in (torch.float16, torch.bfloat16):
        logits_BK = logits_BK.float()
    return F.cross_entropy(logits_BK, targets)
