"""Draw the figures of a report. Each is drawn once, and written as SVG and as PNG.

Letters in shapes: K classes.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from torch import Tensor

from lgkd.analysis.report.html import plain
from lgkd.analysis.report.metrics import Bin, Curve
from lgkd.runs.plots import BLUE, GREEN, GREY, ORANGE, count_epochs, dress, new_figure

_MOST_NUMBERS = 12
"""Number of classes up to which the confusion matrix has its numbers written in."""
_MOST_NAMES = 30
_WIDTH = 5.0
"""Width in inches: as wide as a phone, where a font of ten points can still be read."""


def percent(value: float, _place: object = None) -> str:
    """Format a share for an axis."""
    return f"{value:.0%}"


def draw_accuracy(ours: Curve, baseline: Curve | None, name: str, metric: str) -> Any:
    """Draw accuracy on the test split over the epochs, with the range of the baseline's seeds."""
    figure, axis = new_figure(1, width=_WIDTH, height=3.4)
    groups = [(baseline, "baseline", BLUE)] if baseline is not None else []
    for curve, label, colour in [*groups, (ours, name, ORANGE)]:
        if curve.seeds > 1:
            axis.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        many = f"mean of {curve.seeds} seeds" if curve.seeds > 1 else "one seed"
        marker = "o" if len(curve.epochs) < 15 else None
        axis.plot(curve.epochs, curve.mean, color=colour, label=f"{label}, {many}", linewidth=2, marker=marker, ms=4)
    axis.set(xlabel="epoch", ylabel=f"{metric}, test split")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(percent)
    count_epochs(axis)
    dress((axis,))
    return figure


def draw_losses(rows: Sequence[dict[str, float]]) -> Any:
    """Draw the unweighted parts of the training loss over the epochs; one panel each, for their scales differ."""
    parts = loss_parts(rows)
    figure, axes = new_figure(1, width=_WIDTH, height=1.0 + 1.4 * len(parts))
    axes.remove()
    panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axis, part, colour in zip(panels, parts, cycle((BLUE, ORANGE, GREEN, GREY)), strict=False):
        points = [(row["epoch"], row[part]) for row in rows if part in row]
        axis.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o" if len(points) < 15 else None, ms=4)
        _write(axis.set_title, part.removeprefix("loss_").replace("_", " "), loc="left", fontsize=10)
    panels[-1].set_xlabel("epoch")
    count_epochs(panels[-1])
    dress(panels)
    return figure


def loss_parts(rows: Sequence[dict[str, float]]) -> list[str]:
    """Return the columns of metrics.csv that are parts of the loss."""
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key.startswith("loss_")]


def draw_classes(names: Sequence[str], values: Sequence[float], *, gains: bool) -> Any:
    """Draw a bar for each class, in the given order: its accuracy, or its gain in points."""
    figure, axis = new_figure(1, width=_WIDTH, height=1.0 + 0.22 * len(names))
    axis.barh(range(len(names)), values, color=[ORANGE if value >= 0 else BLUE for value in values], height=0.7)
    axis.set_axisbelow(True)
    axis.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    if gains:
        axis.axvline(0, color=GREY, linewidth=1)
        axis.set_xlabel("gain over the baseline, points")
    else:
        axis.set_xlabel("top-1 accuracy")
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(percent)
    _no_formulas(axis)
    dress((axis,))
    return figure


def draw_confusion(names: Sequence[str], matrix_KK: Tensor) -> Any:
    """Draw the confusion matrix, true classes in rows: shares of each row, with counts for few classes."""
    from matplotlib.colors import LinearSegmentedColormap

    classes = len(names)
    figure, axis = new_figure(1, width=_WIDTH, height=4.9)
    shares = (matrix_KK.double() / matrix_KK.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    # From transparent to blue, for any background.
    shades = LinearSegmentedColormap.from_list("blues", [(0, 0.447, 0.698, 0.0), (0, 0.447, 0.698, 1.0)])
    # The root, so that a few mistakes are visible beside many correct predictions.
    axis.imshow(shares**0.5, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="guessed", ylabel="true")
    if classes <= _MOST_NAMES:
        short = [_short(name, 14) for name in names]
        axis.set_xticks(range(classes), short, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(classes), short, fontsize=8)
    if classes <= _MOST_NUMBERS:
        for row in range(classes):
            for column in range(classes):
                colour = "white" if shares[row, column] > 0.3 else "black"
                count = str(int(matrix_KK[row, column]))
                axis.text(column, row, count, ha="center", va="center", color=colour, fontsize=9)
    _no_formulas(axis)
    return figure


def draw_reliability(ours: Sequence[Bin], baseline: Sequence[Bin] | None) -> Any:
    """Draw accuracy over confidence; a calibrated classifier is on the diagonal. Below: number of images per bin."""
    figure, axes = new_figure(1, width=_WIDTH, height=4.6)
    axes.remove()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, label="as sure as right")
    groups = [(baseline, "baseline", BLUE, "s")] if baseline is not None else []
    for bins, label, colour, marker in [*groups, (ours, "this run", ORANGE, "o")]:
        filled = [one for one in bins if one.images]
        above.plot([b.confidence for b in filled], [b.accuracy for b in filled], color=colour, marker=marker, ms=5,
                   label=label)  # fmt: skip
        below.stairs([b.images for b in bins], [*(b.low for b in bins), 1.0], color=colour, linewidth=1.6)
    above.set(ylabel="accuracy", xlim=(0, 1.01), ylim=(0, 1.03))
    below.set(xlabel="confidence", ylabel="images")
    below.xaxis.set_major_formatter(percent)
    above.yaxis.set_major_formatter(percent)
    dress((above, below))
    return figure


def _short(name: str, most: int = 24) -> str:
    name = plain(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def _write(setter: Any, words: str, **style: Any) -> None:
    setter(words, **style).set_parse_math(False)


def _no_formulas(axis: Any) -> None:
    """Disable formulas, so that a class called "$x$" is plain text."""
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
