"""Decide which metrics are shown beside top-1 accuracy. Every display and every model card asks here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

SELECT_LABELS_BY: Final = MappingProxyType(
    {"map": "mAP", "micro_f1": "micro F1", "macro_f1": "macro F1", "exact_match": "exact match"}
)
"""Those of several labels an image."""

SELECTING: Final = MappingProxyType({**SELECT_BY, **SELECT_LABELS_BY})
"""Both; a name that both have is the same metric."""

THRESHOLD: Final = 0.5
"""Probability above which a label is predicted, where an image may have several."""


@dataclass(frozen=True)
class Headline:
    """Describe the metric that stands for the result of a run.

    Attributes:
        key: its name in metrics.csv, without "test_".
        name: in sentences.
        short: in tables.
        title: at the beginning of a heading.
        key_figure: in a report's tiles.
    """

    key: str
    name: str
    short: str
    title: str
    key_figure: str


TOP1: Final = Headline("top1", "top-1 accuracy", "top-1", "Accuracy", "accuracy")
MAP: Final = Headline("map", "mean average precision", "mAP", "Mean average precision", "mAP")


def headline(scores: Mapping[str, object]) -> Headline:
    """Return the metric that stands for a run: mAP of several labels an image, else top-1 accuracy.

    Args:
        scores: the results of a run.json, or a row of a metrics.csv.
    """
    return MAP if "test_map" in scores else TOP1


def headline_of(dataset: Mapping[str, object]) -> Headline:
    """Return the metric that stands for a run, by `dataset` of its run.json."""
    return MAP if dataset.get("multi_label") else TOP1


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
