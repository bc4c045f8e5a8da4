"""The guide: frozen teacher, taps and terms; everything that exists only while training.

Letters in shapes: B batch, K classes, H W image size, C channels, h w map size.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lgkd.errors import InputError, TapError
from lgkd.models.factory import ImageSize, pair
from lgkd.models.frozen import IMAGENET_MEAN, IMAGENET_STD, Teacher
from lgkd.models.layers import default_taps
from lgkd.taps import Fold, Tap, Taps, find_fold, see_shapes

_LOGGED = ("loss", "accuracy")


@dataclass(frozen=True)
class Term:
    """One loss with its weight.

    Args:
        loss: a module of one of the families in `lgkd.losses`.
        weight: multiplies the loss; 0 or more.
        name: what it is logged as; None for a name made from the loss.
    """

    loss: nn.Module
    weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0 or self.weight == float("inf"):
            raise InputError(f"the weight of {type(self.loss).__name__} is {self.weight}, expected a number >= 0")


@dataclass(frozen=True)
class PairShape:
    """One guided pair: layer names, map shapes (C,h,w), and the grid on which they meet."""

    student: str
    student_map: tuple[int, int, int]
    teacher: str
    teacher_map: tuple[int, int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """The element-wise larger of the two grids."""
        (_, sh, sw), (_, th, tw) = self.student_map, self.teacher_map
        return max(sh, th), max(sw, tw)


class Guide(nn.Module):
    """Makes a student's maps imitate a frozen teacher's, while it exists.

    One trial forward of two images finds the shapes and builds the projections. The hooks stay on
    the student until `remove()`, after which it is as it was. The teacher is no part of
    `parameters()`, `state_dict()` or of what a distributed wrapper sees, but follows `to()`.

    Args:
        student: any module (B,3,H,W) -> (B,K).
        teacher: a `Teacher`, from `lgkd.load_teacher` or of your own.
        image_size: pixels of the student's images, one number or (height, width).
        terms: what is compared, each with its weight.
        taps: layers of the student, early to late, names or `Tap`s; None for the defaults.
        teacher_taps: layers of the teacher; None for those that it states.
        mean, std: the normalisation of the student's images.

    Raises:
        TapError: a layer that is missing or holds no map, or unequal numbers of taps.
        InputError: no term, two terms of one name, a loss of an unknown family, or a teacher that is no
            `Teacher`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        *,
        image_size: ImageSize,
        terms: Sequence[Term],
        taps: Sequence[str | Tap] | None = None,
        teacher_taps: Sequence[str | Tap] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if not isinstance(teacher, Teacher):
            raise InputError(
                f"the teacher is a {type(teacher).__name__}, expected an lgkd.Teacher, which knows its image size and "
                "normalisation; wrap it: lgkd.Teacher(model, image_size=32)"
            )
        # Unregistered on purpose: a teacher is neither trained, saved nor synchronised.
        object.__setattr__(self, "teacher", teacher)
        self.teacher: Teacher
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)
        size = pair(image_size)
        wanted = [Tap.of(tap) for tap in (taps if taps is not None else default_taps(student))]
        theirs = [Tap.of(tap) for tap in (teacher_taps if teacher_taps is not None else teacher.taps)]
        if len(wanted) != len(theirs):
            raise TapError(
                f"{len(wanted)} student taps ({_names(wanted)}) cannot be paired with {len(theirs)} teacher taps "
                f"({_names(theirs)}); name as many of one as of the other"
            )
        self._student_folds, ours = _folds(student, wanted, size)
        self._teacher_folds, its = _folds(teacher.model, theirs, teacher.image_size)
        self.pairs = [
            PairShape(tap.name, our, their_tap.name, their)
            for tap, our, their_tap, their in zip(wanted, ours, theirs, its, strict=True)
        ]
        for shape in self.pairs:
            if 1 in (shape.student_map[1] * shape.student_map[2], shape.teacher_map[1] * shape.teacher_map[2]):
                warnings.warn(
                    f"the pair {shape.student} {shape.student_map} - {shape.teacher} {shape.teacher_map} meets at a "
                    "map of 1 x 1: nothing local is left to imitate; use larger images, smaller patches or earlier "
                    "layers",
                    stacklevel=2,
                )
        self.weights = _named_weights(terms)
        self.losses = nn.ModuleDict(
            {name: _built(term.loss, self.pairs) for name, term in zip(self.weights, terms, strict=True)}
        )
        like = next(student.parameters(), torch.zeros(()))
        self.to(like.device, like.dtype if like.is_floating_point() else None)
        self._taps = Taps(student, [tap.name for tap in wanted])
        self._teacher_taps = Taps(teacher.model, [tap.name for tap in theirs])

    @property
    def across_batch(self) -> bool:
        """Whether a term compares the samples of a batch with each other, so that the batch cannot be cut."""
        return any(getattr(loss, "across_batch", False) for loss in self.losses.values())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Device and precision changes reach the unregistered teacher too."""
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        return self

    def read(self, student: Callable[[Tensor], Tensor], images_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the student; return its logits (B,K) and its maps, one (B,C,h,w) for each tap."""
        logits, outputs = self._taps.read(student, images_B3HW)
        return logits, [fold(output) for fold, output in zip(self._student_folds, outputs, strict=True)]

    @torch.no_grad()
    def teach(self, images_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Show the teacher the student's images in its own view; its logits (B,K) and its maps."""
        view = self.teacher.view(images_B3HW, self.mean, self.std)
        logits, outputs = self._teacher_taps.read(self.teacher.model, view)
        return logits, [fold(output) for fold, output in zip(self._teacher_folds, outputs, strict=True)]

    def forward(self, images_B3HW: Tensor, student_maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms by name, each a scalar that is not yet weighted.

        Args:
            images_B3HW: what the student saw.
            student_maps: from `read`.
        """
        _, teacher_maps = self.teach(images_B3HW)
        return {name: loss(student_maps, teacher_maps) for name, loss in self.losses.items()}

    def remove(self) -> None:
        """Take the hooks off the student and the teacher; both are as they were."""
        self._taps.remove()
        self._teacher_taps.remove()


def _names(taps: Sequence[Tap]) -> str:
    return ", ".join(tap.name for tap in taps)


def _folds(
    model: nn.Module, taps: Sequence[Tap], size: tuple[int, int]
) -> tuple[list[Fold], list[tuple[int, int, int]]]:
    """How each tap folds, and the shapes (C,h,w) of the maps, found by a forward of two images."""
    like = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(2, 3, *size, device=like.device, dtype=like.dtype)
    _, outputs = see_shapes(model, [tap.name for tap in taps], images)
    hint = getattr(model, "num_prefix_tokens", None)
    layout = getattr(model, "output_fmt", None)
    folds, shapes = [], []
    for tap, output in zip(taps, outputs, strict=True):
        fold = find_fold(
            tap,
            output.shape,
            image_size=size,
            images=len(images),
            prefix_hint=hint if isinstance(hint, int) else None,
            layout_hint=str(layout) if layout is not None else None,
        )
        _, channels, height, width = fold(output).shape
        folds.append(fold)
        shapes.append((channels, height, width))
    return folds, shapes


def _named_weights(terms: Sequence[Term]) -> dict[str, float]:
    if not terms:
        raise InputError("a guide without terms guides nothing; give at least one, as in [Term(MapLoss(), weight=2.5)]")
    weights: dict[str, float] = {}
    for term in terms:
        name = term.name or _name_of(term.loss)
        if name in weights or name == "classification":
            raise InputError(f"two parts of the loss are called {name!r}; give each term a name of its own")
        if not re.fullmatch(r"\w[\w-]*", name) or name in _LOGGED or hasattr(nn.ModuleDict(), name):
            raise InputError(
                f"a term cannot be called {name!r}; choose letters, digits, _ and -, and no word that the log or torch "
                "uses itself, as in 'locality'"
            )
        weights[name] = term.weight
    return weights


def _name_of(loss: nn.Module) -> str:
    transform = getattr(loss, "transform", None)
    return f"guidance_{transform}" if transform else type(loss).__name__.lower()


def _built(loss: nn.Module, pairs: Sequence[PairShape]) -> nn.Module:
    reads: Any = getattr(loss, "reads", None)
    if reads != "maps":
        raise InputError(
            f"{type(loss).__name__} reads {reads!r}; a loss states its family as the class attribute reads = 'maps'"
        )
    build = getattr(loss, "build", None)
    if build is not None:
        build([shape.student_map[0] for shape in pairs], [shape.teacher_map[0] for shape in pairs])
    return loss
