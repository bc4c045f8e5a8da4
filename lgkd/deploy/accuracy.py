"""Measure the accuracy of exported files on the test split, and refuse those that lose too much.

Letters in shapes: N images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.data.transforms.augment import Plain
from lgkd.deploy.formats import Logits
from lgkd.errors import ModelError

_BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Hold the accuracy of a student, or of a file of it, on the test split.

    Attributes:
        top1: share of the images that are classified correctly, 0 to 1.
        balanced_accuracy: mean of that share over the classes that have images.
        same_class: share of the images for which the class is that of the student in fp32.
    """

    top1: float
    balanced_accuracy: float
    same_class: float = 1.0

    def drop_from(self, student: "Accuracy") -> float:
        """Return the loss against the student in points: of top-1 or of balanced accuracy, whichever is larger."""
        return 100 * max(student.top1 - self.top1, student.balanced_accuracy - self.balanced_accuracy)


@torch.no_grad()
def predicted(logits: Logits, images: Images, plain: Plain) -> Tensor:
    """Return the class of every image, int64 (N,).

    Args:
        logits: normalised images -> (B,K).
        images: of a split.
        plain: prepares them as in evaluation.
    """
    found = []
    for index in torch.arange(len(images)).split(_BATCH):  # type: ignore[no-untyped-call]
        some = images.take(index)
        found.append(logits(plain(some.pixels, some.sizes)).argmax(dim=1))
    return torch.cat(found)


def measure(classes: Tensor, labels: Tensor, student: Tensor) -> Accuracy:
    """Compute accuracies; all arguments are int64 (N,).

    Args:
        classes: predicted by the file.
        labels: true ones.
        student: predicted by the student in fp32.
    """
    right = (classes == labels).double()
    counts = torch.bincount(labels)
    by_class = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, labels, right)
    return Accuracy(
        float(right.mean()),
        float((by_class / counts)[counts > 0].mean()),
        float((classes == student).double().mean()),
    )


def check_drop(
    file: str, found: Accuracy, student: Accuracy, *, max_drop: float, force: bool, say: Callable[[str], None]
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
    lost = (
        f"{file} classifies {found.top1:.2%} of the test images correctly, the student {student.top1:.2%} (balanced "
        f"{found.balanced_accuracy:.2%} and {student.balanced_accuracy:.2%}): {drop:.2f} points are lost"
    )
    if not force:
        raise ModelError(
            f"{lost}, expected at most {max_drop:g} by --max-drop; nothing was written. Leave that format out, allow "
            "more with --max-drop, or keep it with --force"
        )
    say(f"{lost}, more than --max-drop {max_drop:g}; it is kept by --force")
