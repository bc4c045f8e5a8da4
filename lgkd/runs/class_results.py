"""Read the scores by class of a run's results, and describe metrics that count every class alike. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from lgkd._internal.metric_rules import SELECT_BY, SELECT_LABELS_BY, Headline, are_unequal, headline
from lgkd._internal.text import counted, listed, safe_text
from lgkd.runs.statistics import in_percent

METRICS: Final = MappingProxyType(
    {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "auroc": "one-vs-rest AUROC"}
)
"""Metrics in which every class counts alike, by their columns in metrics.csv without "test_"."""

LABEL_METRICS: Final = MappingProxyType(
    {"micro_f1": "micro F1", "macro_f1": "macro F1", "exact_match": "exact match", "auroc": "AUROC"}
)
"""Metrics of several labels an image that are shown beside mAP."""


def metrics_of(main: Headline) -> Mapping[str, str]:
    """Return the metrics that are shown beside the one that stands for a run."""
    return LABEL_METRICS if main.key == "map" else METRICS


BY_CLASS: Final = "test_by_class"
"""Key of a run's results: for each class, by name, its `lgkd.training.class_scores.ClassScores`."""

APART: Final = 0.01
"""Difference of balanced accuracy from accuracy above which it is shown where the numbers of images are not known."""

_COUNTS, _SHARES = ("count", "predicted"), ("precision", "recall", "f1", "auroc")
_NAMED = 5

ClassResults = Mapping[str, Mapping[str, Any]]


def by_class_of(results: Mapping[str, Any]) -> ClassResults | None:
    """Return the scores by class of a run's results; None in those of earlier versions, or where they are not proper.

    Args:
        results: `results` of run.json.
    """
    found = results.get(BY_CLASS)
    if not isinstance(found, dict) or not found or not all(map(_is_proper, found.values())):
        return None
    return found


def has_unequal_classes(results: Mapping[str, Any], scores: Mapping[str, Any] | None = None) -> bool:
    """Return true if the classes of a run's test split have unequal numbers of images.

    Results of earlier versions lack the numbers. There, balanced accuracy that differs from accuracy by more than a
    point shows it, since the two are equal where the classes are.

    Args:
        results: of run.json.
        scores: `test_top1` and `test_balanced_accuracy` of an epoch; by default those of the results.
    """
    if headline(results).key == "map":
        return False  # mAP counts every class alike
    by_class = by_class_of(results)
    if by_class is not None:
        return are_unequal(one["count"] for one in by_class.values())
    row = results if scores is None else scores
    top1, balanced = row.get("test_top1"), row.get("test_balanced_accuracy")
    return _is_number(top1) and _is_number(balanced) and abs(top1 - balanced) > APART


def class_metrics(results: Mapping[str, Any]) -> dict[str, str]:
    """Format the metrics beside the main one on the test split by their names, of those that a run's results have."""
    names = metrics_of(headline(results))
    found = {name: results.get(f"test_{name}") for name in names}
    return {names[name]: in_words(name, value) for name, value in found.items() if _is_number(value)}


def never_predicted(by_class: ClassResults) -> list[str]:
    """Return the names of classes that have images and are never predicted."""
    return [name for name, one in by_class.items() if one["count"] and not one["predicted"]]


def about_never_predicted(by_class: ClassResults) -> str | None:
    """Write a sentence on classes that are never predicted; None where every class with images is."""
    names = never_predicted(by_class)
    if not names:
        return None
    present = sum(1 for one in by_class.values() if one["count"])
    are = f"{counted(present, 'class')} {'is' if len(names) == 1 else 'are'}"
    return f"{len(names)} of {are} never predicted: {listed([safe_text(name) for name in names], _NAMED)}"


def selected_by(results: Mapping[str, Any]) -> str:
    """Name the metric by which the epoch of the results was selected on held-out images."""
    names = SELECT_LABELS_BY if headline(results).key == "map" else SELECT_BY
    return names.get(str(results.get("selected_by")), next(iter(names.values())))


def in_words(metric: str, value: float | None) -> str:
    """Format a metric of `METRICS` or `LABEL_METRICS`: percent, but for AUROC, which is not a share of the images."""
    if value is None:
        return "undefined"
    return f"{value:.4f}" if metric == "auroc" else f"{in_percent(value)}%"


def _is_proper(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int and value[key] >= 0 for key in _COUNTS)
        and all(key in value and _is_share(value[key]) for key in _SHARES)
    )


def _is_share(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)
