"""Compute training steps from batches. A task owns all its state; the training loop depends only on `Task`.

Letters in shapes: B batch, K classes, H W image size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lgkd.config import Guidance
from lgkd.config.declaration import check_values, default_of
from lgkd.data.batch import Batch
from lgkd.data.transforms.device import sent
from lgkd.distillation.classification import ClassificationLoss, LabelLoss, count_correct
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.errors import InputError
from lgkd.models.forward_checks import no_logits

__all__ = ["Batch", "Guided", "Lookup", "Step", "Supervised", "Task", "as_task", "count_correct"]

_WEIGHT: float = default_of(Guidance, "classification_weight")


@dataclass(frozen=True)
class Step:
    """Hold the result of a task for a batch.

    Attributes:
        loss: the scalar to minimise: the sum of the parts times their weights.
        logits: (B,K).
        parts: unweighted scalars by name, for the log.
    """

    loss: Tensor
    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    def copy(self) -> "Step":
        """Copy the values into new memory."""
        return Step(self.loss.clone(), self.logits.clone(), {name: value.clone() for name, value in self.parts.items()})


class Task(nn.Module, ABC):
    """Compute a step from a batch, and own all state required for it during training.

    A subclass defines `forward`. The other methods are called by the training loop and do nothing here, for a task
    whose only state is the student.

    Args:
        student: the model that is trained, evaluated and saved.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    @abstractmethod
    def forward(self, batch: Batch) -> Step:
        """Compute the loss of a batch."""

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the number of images of a batch that are classified correctly, a scalar, for the log."""
        return count_correct(logits, targets)

    @property
    def terms(self) -> Mapping[str, nn.Module]:
        """Return the losses besides classification, by name; their parameters are trained with the student."""
        return {}

    @property
    def active_terms(self) -> tuple[str, ...]:
        """Return the names of the terms of the next step."""
        return ()

    @property
    def across_batch(self) -> bool:
        """Return True if a loss compares the samples of a batch with each other, so the batch cannot be split."""
        return False

    @property
    def frozen_models(self) -> Mapping[str, nn.Module]:
        """Return the frozen models that a step runs besides the student, by name."""
        return {}

    def on_train_start(self, epochs: float, *, warmup: float = 0.0) -> None:
        """Prepare for a training.

        Args:
            epochs: of the training.
            warmup: epochs of learning-rate warm-up.
        """

    def set_epoch(self, epoch: float) -> None:
        """Set all schedules to an epoch, counted from 0; called before every step with the fraction."""

    def on_epoch_end(self, epoch: int, means: Mapping[str, float]) -> list[str]:  # noqa: ARG002
        """Update the state after an epoch.

        Args:
            epoch: the finished epoch, counted from 1.
            means: the loss and its parts by name, averaged over the epoch.

        Returns:
            Messages for the user.
        """
        return []

    def places(self, index: Tensor, device: torch.device) -> Tensor | None:  # noqa: ARG002
        """Send the places of a batch's images, int64 (B,), to the device of the step; None if no loss reads them."""
        return None

    def current_weights(self) -> dict[str, float]:
        """Return the weights that change during training, by term name, for the log."""
        return {}

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Cast frozen weights to the number format of the step."""

    def run_frozen(self, batch: Batch) -> Batch:
        """Return a batch with the results of the frozen models, for a step that passes it through the student twice.

        `forward` uses them instead of running these models again; here nothing is added, so that they run in each pass.
        """
        return batch

    def checkpoint_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint by part; part names are those of its files."""
        return {"student": self.student.state_dict(), "guide": {}}

    def load_checkpoint_tensors(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore `checkpoint_tensors()`."""
        self.student.load_state_dict(parts["student"])

    def extra_state(self) -> list[dict[str, Any]]:
        """Return the state of a checkpoint besides the tensors, in JSON values."""
        return []

    def load_extra_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore `extra_state()`."""


class Supervised(Task):
    """Learn the labels: mean cross entropy against class numbers or distributions.

    Used for teachers and for students without a guide.

    Args:
        student: the model that is trained, evaluated and saved.
        classification: with class weights or logit adjustment, or for several labels an image; plain cross entropy if
            not given.
    """

    def __init__(self, student: nn.Module, classification: LabelLoss | None = None) -> None:
        super().__init__(student)
        self.classification = classification or ClassificationLoss()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.classification.correct(logits, targets)

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images)
        if not isinstance(logits, Tensor):
            raise no_logits(type(self.student).__name__, logits, when=" while it trains")
        loss = self.classification(logits, batch)
        return Step(loss, logits, {"classification": loss.detach()})


class _GuidedTask(Task):
    """Own the state of guides: forward each call to all of them."""

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
        return {
            f"teacher {number}": guide.teacher.model for number, guide in enumerate(self.guides, 1) if guide.has_teacher
        }

    def on_train_start(self, epochs: float, *, warmup: float = 0.0) -> None:
        for guide in self.guides:
            guide.on_train_start(epochs, warmup=warmup)

    def set_epoch(self, epoch: float) -> None:
        for guide in self.guides:
            guide.set_epoch(epoch)

    def on_epoch_end(self, epoch: int, means: Mapping[str, float]) -> list[str]:
        return [message for guide in self.guides for message in guide.on_epoch_end(epoch, means)]

    def places(self, index: Tensor, device: torch.device) -> Tensor | None:
        return sent(index.numpy(), device) if any(guide.takes_index for guide in self.guides) else None

    def current_weights(self) -> dict[str, float]:
        return {name: weight for guide in self.guides for name, weight in guide.current_weights().items()}

    def cast_frozen(self, dtype: torch.dtype) -> None:
        for guide in self.guides:
            if guide.teacher_runner is not None:
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
        # Checkpoints of earlier versions lack it in the first epoch.
        for guide, own in zip(self.guides, state, strict=False):
            guide.load_extra_state(own)


class _PlainTask(_GuidedTask):
    """Adapt a module with only a `student`, `forward(batch) -> Step`, and optionally `guides` to `Task`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.student)  # type: ignore[arg-type]
        self.module = module
        # Registered in the module already, if it is registered at all.
        object.__setattr__(self, "guides", getattr(module, "guides", ()))

    def forward(self, batch: Batch) -> Step:
        step: Step = self.module(batch)
        return step

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the module's parameters under its own names, which checkpoints use."""
        return self.module.named_parameters(*args, **options)


def as_task(module: nn.Module) -> Task:
    """Adapt a module with a `student` and `forward(batch) -> Step` to the interface of `Task`."""
    return module if isinstance(module, Task) else _PlainTask(module)


class Guided(_GuidedTask):
    """Learn the labels and distill one or several teachers at the same time (dual task).

        loss = classification_weight * cross entropy + sum over terms of weight * term

    `parameters()` are the student's and those of the terms (projections), never the teachers'. With a distillation
    token the labels are compared with the class token's head, as in DeiT; the logits are the model's own.

    Args:
        student: the model that the guides were created for.
        guides: one for each teacher, or one without; term names are unique.
        classification_weight: weight of the cross entropy; 0 or more.
        classification: with class weights or logit adjustment, or for several labels an image; plain cross entropy if
            not given.
    """

    def __init__(
        self,
        student: nn.Module,
        *guides: Guide,
        classification_weight: float = _WEIGHT,
        classification: LabelLoss | None = None,
    ) -> None:
        super().__init__(student)
        if not guides:
            raise InputError("a guided task needs at least one guide, got none; use Supervised(student)")
        if not 0 <= classification_weight < float("inf"):
            raise InputError(f"the classification weight is {classification_weight}, expected a number >= 0")
        check_values(Guidance, "the guided task", {"classification_weight": classification_weight})
        names = [name for guide in guides for name in guide.weights]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"terms of two guides are named {twice!r}; give each a different name")
        self.guides = nn.ModuleList(guides)  # type: ignore[assignment]
        self.classification_weight = classification_weight
        self.classification = classification or ClassificationLoss()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.classification.correct(logits, targets)

    @property
    def guide(self) -> Guide:
        """Return the first guide; in most trainings the only one."""
        return self.guides[0]

    def run_frozen(self, batch: Batch) -> Batch:
        taught = tuple(
            self._taught(batch, number) if guide.active else None for number, guide in enumerate(self.guides)
        )
        return replace(batch, taught=taught)

    def forward(self, batch: Batch) -> Step:
        logits, seen = self._read(batch.images)
        classified = [features.classification for features in seen if features.classification is not None]
        classification = self.classification(classified[0] if classified else logits, batch)
        loss = classification if self.classification_weight == 1 else self.classification_weight * classification
        parts = {"classification": classification}
        for number, (guide, features) in enumerate(zip(self.guides, seen, strict=True)):
            if not guide.active:
                continue
            for name, value in guide(features, self._taught(batch, number), batch.targets, batch.index).items():
                loss = loss + guide.weight(name) * value
                parts[name] = value
        return Step(loss, logits, {name: value.detach() for name, value in parts.items()})

    def _taught(self, batch: Batch, number: int) -> Features | None:
        """Return the features of a guide's teacher: those of the batch, or computed; None if no term reads it now."""
        taught = cast("Features | None", batch.taught[number] if batch.taught else None)
        if taught is None and self.guides[number].needs_teacher:
            view = batch.views[number] if batch.views else None
            taught = self.guides[number].teach(batch.images if view is None else view)
        return taught

    def _read(self, images: Tensor) -> tuple[Tensor, list[Features]]:
        """Run one forward pass of the student with the hooks of every guide."""
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
"""Maps sample indices, int64 (B,), and an epoch counted from 0 to the features of each guide's teacher, as in
`Batch.taught`."""
