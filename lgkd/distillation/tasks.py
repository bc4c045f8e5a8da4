"""Tasks: a batch becomes a step. A task owns all state of its own; the training loop knows nothing but `Task`.

Letters in shapes: B batch, K classes, H W image size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.config import Guidance
from lgkd.config.declaration import check_values, default_of
from lgkd.data.batch import Batch
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.errors import InputError
from lgkd.models.factory import no_logits

__all__ = ["Batch", "Guided", "Lookup", "Step", "Supervised", "Task", "as_task"]

_WEIGHT: float = default_of(Guidance, "classification_weight")


@dataclass(frozen=True)
class Step:
    """Hold the result of a task for a batch.

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


class Task(nn.Module):
    """Compute a step from a batch, and own every state that this needs during a training.

    A subclass defines `forward`. The other methods are called by the training loop and do nothing here, for a task
    whose only state is the student.

    Args:
        student: the model that is trained, evaluated and kept.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> Step:
        """Compute the loss of a batch."""
        raise NotImplementedError

    @property
    def terms(self) -> Mapping[str, nn.Module]:
        """The losses beside the classification, by name; their parameters are trained with the student."""
        return {}

    @property
    def active_terms(self) -> tuple[str, ...]:
        """Names of the terms that take part in the next step."""
        return ()

    @property
    def across_batch(self) -> bool:
        """Tell if a loss compares the samples of a batch with each other, so that the batch cannot be cut."""
        return False

    @property
    def frozen_models(self) -> Mapping[str, nn.Module]:
        """The models beside the student that a step runs and that are not trained, by name."""
        return {}

    def on_train_start(self, epochs: float, *, warmup: float = 0.0) -> None:
        """Prepare for a training.

        Args:
            epochs: of the training.
            warmup: epochs in which the learning rate grows.
        """

    def set_epoch(self, epoch: float) -> None:
        """Set all schedules to an epoch, counted from 0; called before every step with the fraction."""

    def on_epoch_end(self, epoch: int, means: Mapping[str, float]) -> list[str]:  # noqa: ARG002
        """Update the state after an epoch.

        Args:
            epoch: the finished one, counted from 1.
            means: the loss and its parts by name, over the epoch.

        Returns:
            Messages for the user.
        """
        return []

    def current_weights(self) -> dict[str, float]:
        """The weights that change during the training, by the name of their term, for the log."""
        return {}

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Keep frozen weights in the number format of the step."""

    def checkpoint_tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint by part; part names are those of its files."""
        return {"student": self.student.state_dict(), "guide": {}}

    def load_checkpoint_tensors(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore `checkpoint_tensors()`."""
        self.student.load_state_dict(parts["student"])

    def extra_state(self) -> list[dict[str, Any]]:
        """The state of a checkpoint beside the tensors, as JSON has it."""
        return []

    def load_extra_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore `extra_state()`."""


class Supervised(Task):
    """Learn the labels: mean cross entropy against class numbers or distributions.

    Used for teachers and for students without a guide.
    """

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images)
        if not isinstance(logits, Tensor):
            raise no_logits(type(self.student).__name__, logits, when=" while it trains")
        loss = _cross_entropy(logits, batch.targets)
        return Step(loss, logits, {"classification": loss.detach()})


class _GuidedTask(Task):
    """Own the state of guides: each call is passed on to all of them."""

    guides: Sequence[Guide]

    @property
    def terms(self) -> Mapping[str, nn.Module]:
        return {name: loss for guide in self.guides for name, loss in guide.losses.items()}

    @property
    def active_terms(self) -> tuple[str, ...]:
        return tuple(name for guide in self.guides for name in guide.active)

    @property
    def across_batch(self) -> bool:
        return any(guide.across_batch for guide in self.guides)

    @property
    def frozen_models(self) -> Mapping[str, nn.Module]:
        return {f"teacher {number}": guide.teacher.model for number, guide in enumerate(self.guides, 1)}

    def on_train_start(self, epochs: float, *, warmup: float = 0.0) -> None:
        for guide in self.guides:
            guide.on_train_start(epochs, warmup=warmup)

    def set_epoch(self, epoch: float) -> None:
        for guide in self.guides:
            guide.set_epoch(epoch)

    def on_epoch_end(self, epoch: int, means: Mapping[str, float]) -> list[str]:
        return [message for guide in self.guides for message in guide.on_epoch_end(epoch, means)]

    def current_weights(self) -> dict[str, float]:
        return {name: weight for guide in self.guides for name, weight in guide.current_weights().items()}

    def cast_frozen(self, dtype: torch.dtype) -> None:
        for guide in self.guides:
            guide.teacher_runner.cast(dtype)

    def checkpoint_tensors(self) -> dict[str, dict[str, Tensor]]:
        guides = self.guides.state_dict() if isinstance(self.guides, nn.Module) else {}
        return super().checkpoint_tensors() | {"guide": guides}

    def load_checkpoint_tensors(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        super().load_checkpoint_tensors(parts)
        if isinstance(self.guides, nn.Module):
            self.guides.load_state_dict(parts["guide"])

    def extra_state(self) -> list[dict[str, Any]]:
        return [guide.extra_state() for guide in self.guides]

    def load_extra_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        # In its first epoch a training of an earlier lgkd has none.
        for guide, own in zip(self.guides, state, strict=False):
            guide.load_extra_state(own)


class _PlainTask(_GuidedTask):
    """Adapt a module that has a `student`, `forward(batch) -> Step`, and perhaps `guides`; nothing else of a `Task`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.student)  # type: ignore[arg-type]
        self.module = module
        # Registered in the module already, if it is registered at all.
        object.__setattr__(self, "guides", getattr(module, "guides", ()))

    def forward(self, batch: Batch) -> Step:
        step: Step = self.module(batch)
        return step

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The module's, under its names: checkpoints hold these."""
        return self.module.named_parameters(*args, **options)


def as_task(module: nn.Module) -> Task:
    """Adapt a module with a `student` and `forward(batch) -> Step` to the interface of `Task`."""
    return module if isinstance(module, Task) else _PlainTask(module)


class Guided(_GuidedTask):
    """Learn the labels and imitate one or several teachers at the same time (dual task).

        loss = classification_weight * cross entropy + sum over terms of weight * term

    `parameters()` are the student's and those of the terms (projections), never the teachers'. With a distillation
    token the labels are compared with the class token's head, as in DeiT; the logits are the model's own.

    Args:
        student: the model that the guides were made for.
        guides: one for each teacher; their terms have different names.
        classification_weight: of the cross entropy; 0 or more.
    """

    def __init__(self, student: nn.Module, *guides: Guide, classification_weight: float = _WEIGHT) -> None:
        super().__init__(student)
        if not guides:
            raise InputError("a guided task without a guide learns labels alone; use Supervised(student)")
        if not 0 <= classification_weight < float("inf"):
            raise InputError(f"the classification weight is {classification_weight}, expected a number >= 0")
        check_values(Guidance, "the guided task", {"classification_weight": classification_weight})
        names = [name for guide in guides for name in guide.weights]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"terms of two guides are called {twice!r}; give each a name of its own")
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
            taught = cast("Features | None", batch.taught[number] if batch.taught else None)
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


Lookup = Callable[[Tensor, int], tuple[Features | None, ...]]
"""For the samples at these places, int64 (B,), in an epoch counted from 0: what each guide's teacher makes of them, as
`Batch.taught`."""


def _cross_entropy(logits_BK: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy, never in half precision."""
    if logits_BK.dtype in (torch.float16, torch.bfloat16):
        logits_BK = logits_BK.float()
    return F.cross_entropy(logits_BK, targets)
