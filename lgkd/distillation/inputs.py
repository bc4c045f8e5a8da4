"""Give each loss of a guide the features that its family reads, and build it for their shapes."""

from typing import Any

from torch import Tensor, nn

from lgkd.config.terms import STUDENT_ALONE
from lgkd.distillation.features import FeatureReader, Features
from lgkd.errors import InputError

FAMILIES = ("maps", "logits", "distillation", "embeddings", "dense", "student-maps", "exits", "images")
"""Values of a loss's class attribute `reads`."""
OWN_MAPS = frozenset({"student-maps", "exits"})
"""Families that read maps of the student, and none of the teacher."""


def family_of(loss: nn.Module) -> str:
    """Return the family of a loss, its attribute `reads`.

    Raises:
        InputError: it has none, or an unknown one.
    """
    reads: Any = getattr(loss, "reads", None)
    if reads not in FAMILIES:
        raise InputError(
            f"{type(loss).__name__} reads {reads!r}; a loss declares its family as the class attribute reads, one of "
            f"{', '.join(repr(family) for family in FAMILIES)}"
        )
    return str(reads)


def reads_teacher(loss: nn.Module) -> bool:
    """Return True if a loss reads features of the teacher, which is run for it."""
    return family_of(loss) not in STUDENT_ALONE


def takes_index(loss: nn.Module) -> bool:
    """Return True if a loss is also given the places of the images among the training images."""
    return bool(getattr(loss, "takes_index", False))


def value_of(
    loss: nn.Module, seen: Features, taught: Features | None, targets: Tensor, index: Tensor | None = None
) -> Tensor:
    """Compute a term from the inputs that its family reads; `taught` may be None if that is the student alone.

    Raises:
        InputError: the loss takes the places of the images, and there are none.
    """
    family = family_of(loss)
    if family == "student-maps":
        return loss(seen.maps)  # type: ignore[no-any-return]
    if family == "images":
        return loss(seen.images)  # type: ignore[no-any-return]
    assert taught is not None
    if family == "exits":
        return loss(seen.maps, taught.logits, targets)  # type: ignore[no-any-return]
    if family == "maps":
        ours = seen.blocks if getattr(loss, "all_blocks", False) else seen.maps
        return loss(ours, taught.maps)  # type: ignore[no-any-return]
    if family == "embeddings":
        if not takes_index(loss):
            return loss(seen.embedding, taught.embedding)  # type: ignore[no-any-return]
        if index is None:
            raise InputError(
                f"{type(loss).__name__} remembers every training image, and the batch has no places of its images; "
                "pass them: lgkd.Batch(images, targets, index=places)"
            )
        return loss(seen.embedding, taught.embedding, index)  # type: ignore[no-any-return]
    if family == "dense":
        return loss(seen.dense, taught.dense, taught.logits)  # type: ignore[no-any-return]
    ours_BK = seen.distillation if family == "distillation" else seen.logits
    return loss(ours_BK, taught.logits, targets)  # type: ignore[no-any-return]


def built(loss: nn.Module, student: FeatureReader, teacher: FeatureReader | None, labels: Tensor | None) -> nn.Module:
    """Build the projections of a loss for the features that it reads.

    Raises:
        InputError: the loss remembers the training images, and their labels are not given.
    """
    build = getattr(loss, "build", None)
    if build is None:
        return loss
    family = family_of(loss)
    if family == "student-maps":
        build(student.map_shapes)
        return loss
    if family == "images":
        build(student.patches)
        return loss
    assert teacher is not None
    if takes_index(loss):
        if labels is None:
            raise InputError(
                f"{type(loss).__name__} remembers every training image, and the guide has no labels of them; pass "
                "labels=, in the order of the images' places"
            )
        build(student.embedding_width, teacher.embedding_width, labels)
    elif family == "embeddings":
        matrix = [teacher.head.matrix] if getattr(loss, "teacher_classifier", False) and teacher.head else []
        build(student.embedding_width, teacher.embedding_width, *matrix)
    elif family == "dense":
        build(student.dense_shape, teacher.dense_shape, classified=student.head is not None)
    elif family == "exits":
        build(student.map_shapes, student.classes)
    elif getattr(loss, "all_blocks", False):
        build(student.block_shapes, teacher.map_shapes)
    else:
        build(student.map_shapes, teacher.map_shapes)
    return loss
