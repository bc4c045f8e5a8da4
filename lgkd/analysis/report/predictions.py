"""Build the parts of a report that need the student's prediction for every test image."""

from markupsafe import Markup

from lgkd.analysis.report.context import Keep, Known, Shown
from lgkd.analysis.report.figures import MOST_IN_A_COLUMN, draw_classes, draw_confusion, draw_reliability
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.metrics import (
    calibration_error,
    confusion,
    most_confused,
    reliability,
)
from lgkd.runs.class_results import about_never_predicted
from lgkd.runs.statistics import in_percent
from lgkd.training.evaluate import Answers

_MOST_BARS, _FEW_BARS = 30, 12
_MOST_PAIRS = 15
_MOST_ROWS = 20
"""Number of classes up to which their table is as long as it is; a longer one is scrolled."""


def classes(known: Known, ours: Answers, keep: Keep) -> list[Markup]:
    """Build the accuracy of each class, or its gain over the baseline, and the table of all scores by class."""
    names, count = known.classes, len(known.classes)
    scores = ours.by_class(count)
    accuracies = [one.recall for one in scores]
    other = known.baseline_answers
    theirs = [one.recall for one in other.by_class(count)] if other is not None else None
    values = {
        place: value if theirs is None else value - (theirs[place] or 0.0)
        for place, value in enumerate(accuracies)
        if value is not None
    }
    order = sorted(values, key=lambda place: -values[place])
    shown = order if len(order) <= _MOST_BARS else [*order[:_FEW_BARS], *order[-_FEW_BARS:]]
    what = "Accuracy of each class" if theirs is None else "Gain of each class over the baseline"
    some = ""
    if len(shown) < len(order):
        some = f" The {_FEW_BARS} highest and the {_FEW_BARS} lowest of {count} classes; the table has all."
    pair = "" if theirs is None else f" {known.which} A class of few images moves by chance alone."
    unit = "%" if theirs is None else " points"
    written = {place: in_percent(value, signed=theirs is not None) for place, value in values.items()}
    text = ", ".join(f"{names[place]} {written[place]}{unit}" for place in (*order[:3], *order[-3:]))
    gains = [] if theirs is None else ["baseline", "gain"]
    columns = ["class", "images", "predicted", "recall", "precision", "F1", "AUROC", *gains]
    rows = [
        [names[place], f"{scores[place].count:,}", f"{scores[place].predicted:,}",
         *map(_share, (scores[place].recall, scores[place].precision, scores[place].f1)), _area(scores[place].auroc),
         *([] if theirs is None else [_share(theirs[place]), written[place]])]
        for place in order
    ]  # fmt: skip
    shares = [values[place] * (1 if theirs is None else 100) for place in shown]
    picture = Shown(
        "classes",
        draw_classes([names[place] for place in shown], shares, gains=theirs is not None),
        what,
        f"Highest and lowest: {text}.",
        f"{what}.{some}{pair}",
    )
    table = blocks.table(
        "Scores by class; AUROC is that of the class against all others", columns, rows,
        kind="tall" if count > _MOST_ROWS else "",
    )  # fmt: skip
    remark = about_never_predicted({name: one.as_dict() for name, one in zip(names, scores, strict=True)})
    remarks = [] if remark is None else [blocks.paragraphs([f"{remark}."])]
    return [*remarks, blocks.beside(picture.html(keep), [table])]


def _share(value: float | None) -> str:
    return "" if value is None else f"{in_percent(value)}%"


def _area(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def confusions(known: Known, ours: Answers, keep: Keep) -> list[Markup]:
    """Build the confusion matrix, and the pairs with most mistakes."""
    names = known.classes
    matrix = confusion(ours, len(names))
    pairs = most_confused(matrix, _MOST_PAIRS)
    first = f"Most often {names[pairs[0].true]} is taken for {names[pairs[0].guess]}." if pairs else "No mistakes."
    large = len(names) > MOST_IN_A_COLUMN
    picture = Shown(
        "confusion",
        draw_confusion(names, matrix),
        "Confusion matrix",
        f"{len(names)} by {len(names)} classes; {int(matrix.diagonal().sum()):,} of {int(matrix.sum()):,} images are "
        f"on the diagonal. {first}",
        "Rows are true classes, columns predicted ones; the stronger the blue, the larger the share of the row.",
        "large" if large else "",
    )
    if not pairs:
        return [picture.html(keep), blocks.paragraphs(["There is no mistake among the test images."])]
    rows = [(names[one.true], names[one.guess], one.images, f"{one.share:.0%}") for one in pairs]
    columns = ("true class", "taken for", "images", "share of the class")
    listed = blocks.table(f"The {len(rows)} pairs with most mistakes", columns, rows, words=2)
    return [picture.html(keep), listed] if large else [blocks.beside(picture.html(keep), [listed])]


def calibration(known: Known, ours: Answers, keep: Keep) -> list[Markup]:
    """Build the reliability diagram and the expected calibration error."""
    other = known.baseline_answers
    bins = reliability(ours)
    theirs = reliability(other) if other is not None else None
    error = calibration_error(bins)
    sure = float(ours.confidences.double().mean()) > float(ours.right.double().mean())
    lean = "surer than it is right" if sure else "less sure than it is right"
    beside = f"; the baseline's is {in_percent(calibration_error(theirs))}%" if theirs is not None else ""
    picture = Shown(
        "calibration",
        draw_reliability(bins, theirs),
        "Reliability diagram",
        f"Accuracy over confidence in {len(bins)} bins; expected calibration error {in_percent(error)}%.",
        "Above the diagonal the accuracy exceeds the confidence. Below: number of images per bin.",
    )
    rows = [
        (f"{one.low:.0%} to {one.high:.0%}", f"{one.images:,}",
         *("" if value is None else f"{in_percent(value)}%" for value in (one.confidence, one.accuracy)))
        for one in bins
        if one.images or (theirs is not None and theirs[bins.index(one)].images)
    ]  # fmt: skip
    text = (
        f"The expected calibration error is {in_percent(error)}%{beside}: the mean distance between confidence and "
        f"accuracy, over {len(bins)} bins of confidence. On the whole this model is {lean}."
    )
    listed = blocks.table("Confidence and accuracy", ("confidence", "images", "mean", "accuracy"), rows)
    return [blocks.beside(picture.html(keep), [blocks.paragraphs([text]), listed])]
