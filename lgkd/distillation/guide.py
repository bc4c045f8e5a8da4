"""Compare a student with a frozen teacher by weighted loss terms, during training only.

Letters in shapes: B batch, K classes, H W image size, C channels, h w map size.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from lgkd.config import TermSchedule, TermSection
from lgkd.config.declaration import check_values
from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD
from lgkd.distillation.features import FeatureReader, Features, FeatureSpec, MapShape
from lgkd.distillation.inputs import OWN_MAPS, built, family_of, reads_teacher, takes_index, value_of
from lgkd.distillation.schedules import TermState
from lgkd.distillation.taps import Tap
from lgkd.distillation.teacher_runner import TeacherRunner
from lgkd.distillation.terms import OF_CLASSES, default_weight, named_weights
from lgkd.errors import InputError, TapError
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import ImageSize, pair
from lgkd.models.teacher import Teacher


@dataclass(frozen=True)
class Term:
    """Weight a loss by a number, and optionally a schedule.

    Args:
        loss: a module of one of the families in `lgkd.losses`.
        weight: multiplies the loss; 0 or more. Default: that of a recipe for a loss of this kind, i.e. the published
            weight where there is one, 1 for custom losses.
        name: name in the log; None for a name derived from the loss.
        schedule: how the weight changes during training, and when the term ends.
    """

    loss: nn.Module
    weight: float = None  # type: ignore[assignment]  # a number from __post_init__ on
    name: str | None = None
    schedule: TermSchedule = field(default_factory=TermSchedule)

    def __post_init__(self) -> None:
        if self.weight is None:
            object.__setattr__(self, "weight", default_weight(self.loss))  # type: ignore[unreachable]
        if not self.weight >= 0 or self.weight == float("inf"):
            raise InputError(f"the weight of {type(self.loss).__name__} is {self.weight}, expected a number >= 0")
        check_values(TermSection, f"the term of {type(self.loss).__name__}", {"weight": self.weight})


@dataclass(frozen=True)
class PairShape:
    """Hold a guided pair: layer names, map shapes (C,h,w), and the grid on which they are compared."""

    student: str
    student_map: MapShape
    teacher: str
    teacher_map: MapShape

    @property
    def grid(self) -> tuple[int, int]:
        """Return the element-wise larger of the two grids."""
        (_, sh, sw), (_, th, tw) = self.student_map, self.teacher_map
        return max(sh, th), max(sw, tw)


class Guide(nn.Module):
    """Distill a frozen teacher into a student while the guide is attached.

    One trial forward of two images finds the shapes and builds the projections. The hooks stay on
    the student until `remove()`, which restores it. The teacher is not part of `parameters()`,
    `state_dict()` or of the modules that a distributed wrapper handles, but follows `to()`. Only the layers that
    the terms read are run, with BatchNorm folded into the convolutions where its statistics are fixed; without a
    term that reads it, the teacher is not run at all.

    Args:
        student: any module (B,3,H,W) -> (B,K).
        teacher: a `Teacher`, from `lgkd.load_teacher` or of your own; None if all terms read the student alone.
        image_size: pixels of the student's images, one number or (height, width).
        terms: the losses, each with its weight.
        taps: layers of the student, early to late, names or `Tap`s; None for the defaults.
        teacher_taps: layers of the teacher; None for its default taps.
        mean, std: the normalisation of the student's images; one number each where they have one channel.
        antialias: smooth the student's images before they are downscaled for the teacher; the paper does not.
        labels: of all training images in the order of `Batch.index`, (N,) or (N,K); for losses that remember them.

    Raises:
        TapError: a layer that is missing or is not a map, or unequal numbers of taps.
        InputError: no term, two terms with the same name, a loss of an unknown family, other classes than the
            teacher's where logits are compared, or a teacher that is not a `Teacher`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        *,
        image_size: ImageSize,
        terms: Sequence[Term],
        taps: Sequence[str | Tap] | None = None,
        teacher_taps: Sequence[str | Tap] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        antialias: bool = False,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        if teacher is None:
            _refuse_without_teacher(terms)
        elif not isinstance(teacher, Teacher):
            raise InputError(
                f"the teacher is a {type(teacher).__name__}, expected an lgkd.Teacher, which knows its image size and "
                "normalisation; wrap it: lgkd.Teacher(model, image_size=32)"
            )
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.antialias = antialias
        self.weights = named_weights([(term.name, term.loss, term.weight) for term in terms])
        families = [(family_of(term.loss), bool(getattr(term.loss, "all_blocks", False))) for term in terms]
        read = {family for family, _ in families}
        paired, blocks = ("maps", False) in families, ("maps", True) in families
        own = paired or bool(read & OWN_MAPS)
        wanted = [Tap.of(tap) for tap in (taps if taps is not None else default_taps(student))] if own else []
        layers = teacher_taps if teacher_taps is not None else teacher.taps if teacher is not None else ()
        known = [Tap.of(tap) for tap in layers]
        self.teacher_layers = [tap.name for tap in known]
        theirs = known if paired or blocks else []
        if paired and len(wanted) != len(theirs):
            raise TapError(
                f"{len(wanted)} student taps ({_names(wanted)}) cannot be paired with {len(theirs)} teacher taps "
                f"({_names(theirs)}); name as many student as teacher taps; a layer may be repeated"
            )
        both = {"logits": bool(read & OF_CLASSES), "embedding": "embeddings" in read, "dense": "dense" in read}
        distillation = "distillation" in read
        head = both["dense"] or any(getattr(term.loss, "teacher_classifier", False) for term in terms)
        self._reader = FeatureReader(
            student,
            wanted,
            FeatureSpec(maps=own, blocks=blocks, distillation=distillation, patches="images" in read, **both),
            pair(image_size),
            len(self.mean),
        )
        # Deliberately not registered as a module: a teacher is neither trained, saved nor synchronised.
        self.teacher_runner: TeacherRunner | None = None
        if teacher is not None:
            self.teacher_runner = TeacherRunner(teacher, theirs, FeatureSpec(maps=paired or blocks, head=head, **both))
        read_of_teacher = self.teacher_runner.reader if self.teacher_runner is not None else None
        self.teaches = read_of_teacher.shapes if read_of_teacher is not None else {}
        if both["logits"] and read_of_teacher is not None and self._reader.classes != read_of_teacher.classes:
            raise InputError(
                f"the student has {self._reader.classes} classes, the teacher {read_of_teacher.classes}, "
                "and a term compares their logits; use a teacher with the same classes, or terms that compare maps"
            )
        self.pairs = [
            PairShape(tap.name, our, their_tap.name, their)
            for tap, our, their_tap, their in zip(
                wanted if paired else [],
                self._reader.map_shapes,
                theirs,
                read_of_teacher.map_shapes if read_of_teacher is not None else (),
                strict=False,
            )
        ]
        _warn_of_small_maps([*self.pairs, *_dense_pair(self._reader, read_of_teacher)])
        self.losses = nn.ModuleDict(
            {
                name: built(term.loss, self._reader, read_of_teacher, labels)
                for name, term in zip(self.weights, terms, strict=True)
            }
        )
        self.term_states = {name: TermState(term.schedule) for name, term in zip(self.weights, terms, strict=True)}
        self._epochs, self._warmup = 1.0, 0.0
        self._factors: dict[str, Tensor] = {}
        self._now = dict.fromkeys(self.weights, 1.0)
        like = next(student.parameters(), torch.zeros(()))
        self.to(like.device, like.dtype if like.is_floating_point() else None)
        if self.teacher_runner is not None and self.needs_teacher:
            self.teacher_runner.build()
        self._taps = self._reader.attach(student)

    @property
    def teacher(self) -> Teacher:
        """Return the frozen teacher.

        Raises:
            InputError: the guide has none.
        """
        return self._runner.teacher

    @property
    def has_teacher(self) -> bool:
        """Return True if the guide has a teacher, also if no term reads it."""
        return self.teacher_runner is not None

    @property
    def _runner(self) -> TeacherRunner:
        if self.teacher_runner is None:
            raise InputError(
                f"this guide has no teacher: its terms ({', '.join(self.weights)}) read the student alone; pass a "
                "teacher to Guide, or look at has_teacher first"
            )
        return self.teacher_runner

    # ------------------------------------------------------------------ forward passes

    def read(self, student: Callable[[Tensor], Tensor], images_B3HW: Tensor) -> Features:
        """Run the student on images (B,3,H,W); return its logits and the features that the terms read."""
        logits, outputs = self._taps.capture(student, images_B3HW)
        return self._reader.features(logits, outputs, images_B3HW)

    @torch.no_grad()
    def teach(self, images_B3HW: Tensor) -> Features:
        """Run the teacher on its own view of the student's images; return the features that the terms read."""
        return self._runner(self.teacher.view(images_B3HW, self.mean, self.std, antialias=self.antialias))

    def forward(
        self, seen: Features, taught: Features | None, targets: Tensor, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the active terms by name, each an unweighted scalar.

        Args:
            seen: from `read`.
            taught: from `teach`, for the same images; None if no active term reads the teacher.
            targets: class numbers, int64 (B,), or distributions over classes, float (B,K).
            index: places of the images among the training images, int64 (B,); for losses that remember them.
        """
        values: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            if self.term_states[name].ended is None:
                values[name] = value_of(loss, seen, taught, targets, index)
        return values

    # ------------------------------------------------------------------ training state

    @property
    def across_batch(self) -> bool:
        """Return True if a term compares the samples of a batch with each other, so the batch cannot be split."""
        return any(getattr(loss, "across_batch", False) for name, loss in self.losses.items() if name in self.active)

    @property
    def takes_index(self) -> bool:
        """Return True if a term is given the places of the images among the training images."""
        return any(takes_index(loss) for loss in self.losses.values())

    @property
    def active(self) -> tuple[str, ...]:
        """Return the names of the terms that have not ended."""
        return tuple(name for name, term in self.term_states.items() if term.ended is None)

    @property
    def needs_teacher(self) -> bool:
        """Return True if a term that has not ended reads the teacher; else the teacher is not run."""
        return any(reads_teacher(self.losses[name]) for name in self.active)

    def weight(self, name: str) -> float | Tensor:
        """Return the current weight of a term; a tensor if scheduled, to avoid recompilation."""
        factor = self._factors.get(name)
        return self.weights[name] if factor is None else self.weights[name] * factor

    def current_weights(self) -> dict[str, float]:
        """Return the current weights of the scheduled terms as numbers; 0 for an ended term."""
        return {
            name: self.weights[name] * self._now[name]
            for name, term in self.term_states.items()
            if not term.schedule.constant
        }

    def on_train_start(self, epochs: float, *, warmup: float = 0.0) -> None:
        """Scale the schedules to the length of a training.

        Args:
            epochs: of the training.
            warmup: epochs of learning-rate warm-up; an adaptive stop waits for their end.
        """
        self._epochs, self._warmup = epochs, warmup
        self.set_epoch(0.0)

    def set_epoch(self, epoch: float) -> None:
        """Set the scheduled weights, and losses that change in training, to a (fractional) epoch, counted from 0."""
        for loss in self.losses.values():
            set_progress: Callable[[float], None] | None = getattr(loss, "set_progress", None)
            if set_progress is not None:
                set_progress(epoch / self._epochs)
        for name, term in self.term_states.items():
            if term.schedule.constant:
                continue
            now = term.factor(epoch, self._epochs)
            if name not in self._factors:
                self._factors[name] = torch.full((), now, device=self.mean.device)
            elif now != self._now[name]:
                self._factors[name].fill_(now)
            self._now[name] = now

    def on_epoch_end(self, epoch: int, means: Mapping[str, float]) -> list[str]:
        """Update the schedules after an epoch; return a message for each term that ended.

        After the last term that reads it has ended, the teacher is no longer run and its copy is freed.

        Args:
            epoch: the finished one, counted from 1.
            means: of the terms over it, unweighted, by name.
        """
        notes = []
        for name, term in self.term_states.items():
            reason = term.on_epoch_end(epoch, self._epochs, means.get(name), warmup=self._warmup)
            if reason is not None:
                notes.append(f"{name} ended after epoch {epoch}: {reason}")
        self._release_unread()
        return notes

    def ended(self) -> dict[str, tuple[int, str]]:
        """Return the ended terms with the epoch (counted from 1) after which each ended and the reason."""
        return {
            name: (term.ended, term.reason(self._epochs) or "")
            for name, term in self.term_states.items()
            if term.ended is not None
        }

    def extra_state(self) -> dict[str, Any]:
        """Return the state of every term's schedule in JSON values, stored in checkpoints beside `state_dict()`."""
        return {name: term.state_dict() for name, term in self.term_states.items()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore `extra_state()`."""
        for name, term in self.term_states.items():
            if name in state:
                term.load_state_dict(state[name])
        self._release_unread()

    def remove(self) -> None:
        """Remove the hooks from the student and the teacher; both are as before."""
        self._taps.remove()
        if self.teacher_runner is not None:
            self.teacher_runner.remove()

    # ------------------------------------------------------------------ internals

    def _release_unread(self) -> None:
        """Free the teacher's copy if no active term reads it."""
        if self.teacher_runner is not None and not self.needs_teacher:
            self.teacher_runner.release()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply device and precision changes to the unregistered teacher too."""
        if self.teacher_runner is not None:
            self.teacher_runner.apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        # Weights stay in single precision, independent of the student's dtype.
        self._factors = {name: factor.to(self.mean.device) for name, factor in self._factors.items()}
        return self


def _refuse_without_teacher(terms: Sequence[Term]) -> None:
    """Refuse terms that read a teacher, with an InputError."""
    read = [type(term.loss).__name__ for term in terms if reads_teacher(term.loss)]
    if read:
        raise InputError(
            f"the teacher is None, and {', '.join(read)} of the terms reads one; pass an lgkd.Teacher, or only terms "
            "that read the student alone"
        )


def _dense_pair(ours: FeatureReader, theirs: FeatureReader | None) -> list[PairShape]:
    if ours.dense_layer is None or theirs is None or theirs.dense_layer is None:
        return []
    return [PairShape(ours.dense_layer, ours.dense_shape, theirs.dense_layer, theirs.dense_shape)]


def _names(taps: Sequence[Tap]) -> str:
    return ", ".join(tap.name for tap in taps)


def _warn_of_small_maps(pairs: Sequence[PairShape]) -> None:
    for shape in pairs:
        if 1 in (shape.student_map[1] * shape.student_map[2], shape.teacher_map[1] * shape.teacher_map[2]):
            warnings.warn(
                f"the pair {shape.student} {shape.student_map} - {shape.teacher} {shape.teacher_map} is compared on a "
                "grid of 1 x 1: no local information is left; use larger images, smaller patches or earlier layers",
                stacklevel=3,
            )
