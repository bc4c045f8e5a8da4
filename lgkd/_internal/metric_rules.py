"""Decide which metrics are shown beside top-1 accuracy. Every display and every model card asks here."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

TOP5_ABOVE = 10
"""Number of classes above which top-5 accuracy is shown: of ten classes or fewer, five are half of them or more."""

UNEQUAL = 1.1
"""Ratio of the largest class to the mean one above which classes are unequal, and balanced accuracy is shown."""

SELECT_BY: Final = MappingProxyType(
    {"top1": "top-1 accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
)
"""Metrics that may select the epoch on held-out images, with their names."""


def shows_top5(classes: int) -> bool:
    """Return true if top-5 accuracy is shown for a classifier of so many classes."""
    return classes > TOP5_ABOVE


def is_unequal(largest_class: float, classes: int) -> bool:
    """Return true if the classes of a split have unequal numbers of images.

    Args:
        largest_class: share of the images that are of the most frequent class, 0 to 1.
        classes: their number.
    """
    return largest_class * classes > UNEQUAL


def are_unequal(counts: Iterable[int]) -> bool:
    """Return true if these numbers of images by class are unequal; classes without images are left out."""
    present = [count for count in counts if count]
    return bool(present) and is_unequal(max(present) / sum(present), len(present))
