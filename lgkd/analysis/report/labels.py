"""Build the part of a report on images with several labels: the scores of every class, from the run's own files."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lgkd.analysis.report.context import Known
from lgkd.analysis.report.html import blocks
from lgkd.runs.class_results import about_never_predicted, by_class_of
from lgkd.runs.statistics import in_percent

_SHARES = ("ap", "precision", "recall", "f1", "auroc")


def label_scores(known: Known) -> list[Markup]:
    """Build the table of every class, the best ranked first, with the gain in average precision over the baseline."""
    ours = by_class_of(known.chosen.main.info["results"])
    if ours is None:
        return [blocks.paragraphs(["The run's scores by class are missing."])]
    beside = known.chosen.beside
    theirs = None if beside is None else by_class_of(beside.info["results"])
    columns = ["class", "test images", "predicted", "average precision", "precision", "recall", "F1", "AUROC"]
    columns += [] if theirs is None else ["gain in average precision, points"]
    order = sorted(ours, key=lambda name: -(ours[name].get("ap") or 0.0))
    rows = [
        [name, f"{ours[name]['count']:,}", f"{ours[name]['predicted']:,}"]
        + [_share(ours[name].get(key), key) for key in _SHARES]
        + ([] if theirs is None else [_gain(ours[name], theirs.get(name, {}))])
        for name in order
    ]
    remark = about_never_predicted(ours)
    text = (
        "An image has several labels, so that there is no confusion matrix. A label is predicted above a probability "
        f"of 0.5.{'' if remark is None else f' {remark}.'} {known.which}"
    )
    return [blocks.paragraphs([text.strip()]), blocks.table("Scores by class", columns, rows)]


def _share(value: float | None, key: str) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if key == "auroc" else f"{in_percent(value)}%"


def _gain(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    own, other = ours.get("ap"), theirs.get("ap")
    return "" if own is None or other is None else in_percent(own - other, signed=True)
