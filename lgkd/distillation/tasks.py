"""Tasks: what turns a batch into a step. The training loop knows tasks, not teachers.

Letters in shapes: B batch, K classes, H W image size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.config import Guidance
from lgkd.config.declaration import check_values, default_of
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.errors import InputError
from lgkd.models.factory import no_logits

_WEIGHT: float = default_of(Guidance, "classification_weight")


@dataclass(frozen=True)
class Batch:
    """What a task is given.

    Args:
        images: (B,3,H,W), normalised for the student.
        targets: class numbers, int64 (B,), or distributions over classes, float (B,K).
        views: for each guide what its teacher sees, (B,3,h,w) in the teacher's size and the student's normalisation;
            None, or none at all: the teacher's view is made of `images`.
        taught: for each guide what is known already of its teacher for these images; None, or none at all: the
            teacher is run.
    """

    images: Tensor
    targets: Tensor
    views: tuple[Tensor | None, ...] = ()
    taught: tuple[Features | None, ...] = ()

    def split(self, pieces: int) -> list["Batch"]:
        """Nearly equal parts, in order."""
        views = [[None] * pieces if view is None else view.tensor_split(pieces) for view in self.views]
        taught = [[None] * pieces if known is None else known.split(pieces) for known in self.taught]
        return [
            Batch(
                images,
                targets,
                tuple(view[number] for view in views),
                tuple(known[number] for known in taught),
            )
            for number, (images, targets) in enumerate(
                zip(self.images.tensor_split(pieces), self.targets.tensor_split(pieces), strict=True)
            )
        ]


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

    def copy(self) -> "Step":
        """The same values in memory of their own."""
        return Step(self.loss.clone(), self.logits.clone(), {name: value.clone() for name, value in self.parts.items()})


class Supervised(nn.Module):
    """Learn the labels: mean cross entropy against class numbers or distributions.

    Used for teachers and for students without a guide.
    """

    guides: Sequence[Guide] = ()

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images)
        if not isinstance(logits, Tensor):
            raise no_logits(type(self.student).__name__, logits, when=" while it trains")
        loss = _cross_entropy(logits, batch.targets)
        return Step(loss, logits, {"classification": loss.detach()})


class Guided(nn.Module):
    """Learn the labels and imitate one or several teachers at the same time (dual task).

        loss = classification_weight * cross entropy + sum over terms of weight * term

    `parameters()` are the student's and those of the terms (projections), never the teachers'. With a distillation
    token the labels are compared with the class token's head, as in DeiT; the logits are the model's own.

    Args:
        student: the model that the guides were made for.
        guides: one for each teacher; their terms have different names.
        classification_weight: of the cross entropy; 0 or more.
    """

    guides: Sequence[Guide]

    def __init__(self, student: nn.Module, *guides: Guide, classification_weight: float = _WEIGHT) -> None:
        super().__init__()
        if not guides:
            raise InputError("a guided task without a guide learns labels alone; use Supervised(student)")
        if not 0 <= classification_weight < float("inf"):
            raise InputError(f"the classification weight is {classification_weight}, expected a number >= 0")
        check_values(Guidance, "the guided task", {"classification_weight": classification_weight})
        names = [name for guide in guides for name in guide.weights]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"terms of two guides are called {twice!r}; give each a name of its own")
        self.student = student
        self.guides = nn.ModuleList(guides)  # type: ignore[assignment]
        self.classification_weight = classification_weight

    @property
    def guide(self) -> Guide:
        """The first guide; in most trainings the only one."""
        return self.guides[0]

    def forward(self, batch: Batch) -> Step:
        logits, seen = self._read(batch.images)
        classified = [features.classification for features in seen if features.classification is not None]
        classification = _cross_entropy(classified[0] if classified else logits, batch.targets)
        loss = classification if self.classification_weight == 1 else self.classification_weight * classification
        parts = {"classification": classification}
        for number, (guide, features) in enumerate(zip(self.guides, seen, strict=True)):
            if not guide.active:
                continue
            taught = batch.taught[number] if batch.taught else None
            if taught is None:
                view = batch.views[number] if batch.views else None
                taught = guide.teach(batch.images if view is None else view)
            for name, value in guide(features, taught, batch.targets).items():
                loss = loss + guide.weight(name) * value
                parts[name] = value
        return Step(loss, logits, {name: value.detach() for name, value in parts.items()})

    def _read(self, images: Tensor) -> tuple[Tensor, list[Features]]:
        """One forward pass of the student, to which every guide listens."""
        guides = [*self.guides]
        seen: list[Features] = []

        def run(images: Tensor, number: int = 0) -> Tensor:
            if number == len(guides):
                logits = self.student(images)
                if not isinstance(logits, Tensor):
                    raise no_logits(type(self.student).__name__, logits, when=" while it trains")
                return logits
            features = guides[number].read(lambda images: run(images, number + 1), images)
            seen.insert(0, features)
            assert features.logits is not None
            return features.logits

        return run(images), seen


Task = Supervised | Guided

Lookup = Callable[[Tensor, int], tuple[Features | None, ...]]
"""For the samples at these places, int64 (B,), in an epoch counted from 0: what each guide's teacher makes of them, as
`Batch.taught`."""


def _cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy, never in half precision."""
    if logits_BK.dtype in (torch.float16, torch.bfloat16):
        logits_BK = logits_BK.float()
    return F.cross_entropy(logits_BK, targets)
