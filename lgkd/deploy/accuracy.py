"""Measure the accuracy of exported files on the test split, and refuse those that lose too much.

Letters in shapes: N images, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.data.transforms.augment import Plain
from lgkd.deploy.formats import Logits
from lgkd.errors import ModelError
from lgkd.training.label_scores import score_labels

_BATCH = 64


class Shares(ABC):
    """Compare the accuracy of a file with that of the student."""

    TITLES: ClassVar[tuple[str, ...]]
    """Of the fields, in tables."""
    SAME: ClassVar[str]
    """Explanation of the last title."""

    @property
    @abstractmethod
    def judged(self) -> tuple[float, float]:
        """Return the two accuracies that a file may not lose, 0 to 1."""

    @abstractmethod
    def against(self, student: "Shares") -> str:
        """Describe the accuracies and the student's in words."""

    def drop_from(self, student: "Shares") -> float:
        """Return the loss against the student in points, in the accuracy that has lost more."""
        return 100 * max(theirs - ours for ours, theirs in zip(self.judged, student.judged, strict=True))


@dataclass(frozen=True)
class Accuracy(Shares):
    """Hold the accuracy of a student, or of a file of it, on the test split.

    Attributes:
        top1: share of the images that are classified correctly, 0 to 1.
        balanced_accuracy: mean of that share over the classes that have images.
        same_class: share of the images for which the class is that of the student in fp32.
    """

    top1: float
    balanced_accuracy: float
    same_class: float = 1.0

    TITLES = ("top-1", "balanced accuracy", "same class")
    SAME = "same class: as the student in fp32"

    @property
    def judged(self) -> tuple[float, float]:
        """Return top-1 and balanced accuracy."""
        return self.top1, self.balanced_accuracy

    def against(self, student: Shares) -> str:
        """Describe the accuracies and the student's in words."""
        top1, balanced = student.judged
        return (
            f"classifies {self.top1:.2%} of the test images correctly, the student {top1:.2%} (balanced "
            f"{self.balanced_accuracy:.2%} and {balanced:.2%})"
        )


@dataclass(frozen=True)
class LabelAccuracy(Shares):
    """Hold the same of a student that gives an image several labels; `lgkd.training.label_scores` defines the scores.

    Attributes:
        map: mean average precision, 0 to 1.
        micro_f1: F1 of all labels together.
        same_labels: share of the labels (image and class) on which it agrees with the student in fp32.
    """

    map: float
    micro_f1: float
    same_labels: float = 1.0

    TITLES = ("mAP", "micro F1", "same labels")
    SAME = "same labels: as the student in fp32"

    @property
    def judged(self) -> tuple[float, float]:
        """Return mAP and micro F1."""
        return self.map, self.micro_f1

    def against(self, student: Shares) -> str:
        """Describe the accuracies and the student's in words."""
        mean, micro = student.judged
        return (
            f"has a mean average precision of {self.map:.2%} on the test images, the student {mean:.2%} (micro F1 "
            f"{self.micro_f1:.2%} and {micro:.2%})"
        )


@torch.no_grad()
def logits_of(logits: Logits, images: Images, plain: Plain) -> Tensor:
    """Return the logits of every image, fp32 (N,K).

    Args:
        logits: normalised images -> (B,K).
        images: of a split.
        plain: prepares them as in evaluation.
    """
    found = []
    for index in torch.arange(len(images)).split(_BATCH):  # type: ignore[no-untyped-call]
        some = images.take(index)
        found.append(logits(plain(some.pixels, some.sizes)).float())
    return torch.cat(found)


def measure(logits_NK: Tensor, labels: Tensor, student_NK: Tensor) -> Accuracy | LabelAccuracy:
    """Compute the accuracies of a file.

    Args:
        logits_NK: of the file.
        labels: true ones: int64 (N,), or of several labels an image (N,K) of 0 and 1.
        student_NK: logits of the student in fp32.

    Raises:
        DataError: an image may have several labels, and none has one.
    """
    if labels.ndim == 2:
        found = score_labels([(logits_NK, labels, student_NK)])
        assert found.agreement is not None
        return LabelAccuracy(found.map, found.micro_f1, found.agreement)
    classes_N = logits_NK.argmax(dim=1)
    right = (classes_N == labels).double()
    counts = torch.bincount(labels)
    by_class = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, right)
    return Accuracy(
        float(right.mean()),
        float((by_class / counts)[counts > 0].mean()),
        float((classes_N == student_NK.argmax(dim=1)).double().mean()),
    )


def check_drop(
    file: str, found: Shares, student: Shares, *, max_drop: float, force: bool, say: Callable[[str], None]
) -> None:
    """Refuse a file that loses more accuracy than allowed.

    Args:
        file: its name.
        found, student: its accuracy, and that of the student in fp32.
        max_drop: points.
        force: keep it, with a remark.
        say: called with that remark.

    Raises:
        ModelError: it loses more, and `force` is False.
    """
    drop = found.drop_from(student)
    if drop <= max_drop + 1e-9:
        return
    lost = f"{file} {found.against(student)}: {drop:.2f} points are lost"
    if not force:
        raise ModelError(
            f"{lost}, expected at most {max_drop:g} by --max-drop; nothing was written. Leave that format out, allow "
            "more with --max-drop, or keep it with --force"
        )
    say(f"{lost}, more than --max-drop {max_drop:g}; it is kept by --force")
