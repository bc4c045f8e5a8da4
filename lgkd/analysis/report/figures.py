"""Draw the figures of a report. Each is drawn once, and written as SVG and as PNG.

Letters in shapes: K classes.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

from torch import Tensor

from lgkd.analysis.report.html import plain
from lgkd.analysis.report.metrics import Bin, Curve
from lgkd.analysis.report.svg import DEEP
from lgkd.runs.plots import BLUE, GREEN, GREY, ORANGE, count_epochs, dress, new_figure

_MOST_NUMBERS = 12
"""Number of classes up to which the confusion matrix has its numbers written in."""
MOST_IN_A_COLUMN = 24
"""Number of classes up to which the confusion matrix fits half of a page; a larger one has the width of the page."""
_MOST_NAMES = 120
"""Number of classes up to which they are named on the axes: more names could not be read."""
_WIDTH = 5.0
"""Width in inches: as wide as a phone, where a font of ten points can still be read."""
_DEEP_FROM = 0.93
"""Depth of the blue from which white on it is easier to read than black: both have a contrast of 4.5 there."""
_CELL, _BESIDE = 0.1, 1.6
"""Side of a cell of a large confusion matrix, and the room for the names beside it, in inches."""


class Line(NamedTuple):
    """Represent a line over the epochs: its name, its values, its colour, and whether it is dashed."""

    name: str
    curve: Curve
    colour: str
    dashed: bool = False


def percent(value: float, _place: object = None) -> str:
    """Format a share for an axis."""
    return f"{value:.0%}"


def draw_accuracy(lines: Sequence[Line], units: str = "seeds", *, panels: int = 1, metric: str = "accuracy") -> Any:
    """Draw the main metric on the test split over the epochs, each line with the range of its runs.

    Args:
        lines: the last one on top.
        units: what the runs of a line differ by, "seeds" or "folds".
        panels: of `draw_losses`, beside which it is as tall.
        metric: name of what is drawn.
    """
    figure, axis = new_figure(1, width=_WIDTH, height=min(max(_height(panels), 3.4), 5.2))
    for name, curve, colour, dashed in lines:
        if curve.seeds > 1 and not dashed:
            axis.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        many = f"mean of {curve.seeds} {units}" if curve.seeds > 1 else f"one {units.removesuffix('s')}"
        marker = "o" if len(curve.epochs) < 15 else None
        axis.plot(
            curve.epochs, curve.mean, color=colour, label=name if dashed else f"{name}, {many}", marker=marker, ms=4,
            linewidth=1.4 if dashed else 2, linestyle=(0, (5, 2)) if dashed else "-",
        )  # fmt: skip
    axis.set(xlabel="epoch", ylabel=f"{metric}, test split")
    axis.set_ylim(bottom=0, top=min(1.03, max(1.1 * max(max(line.curve.high) for line in lines), 0.01)))
    axis.yaxis.set_major_formatter(percent)
    count_epochs(axis)
    dress((axis,))
    return figure


def draw_losses(rows: Sequence[dict[str, float]]) -> Any:
    """Draw the unweighted parts of the training loss over the epochs; one panel each, for their scales differ."""
    parts = loss_parts(rows)
    figure, axes = new_figure(1, width=_WIDTH, height=_height(len(parts)))
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


def _height(panels: int) -> float:
    return 1.0 + 1.4 * panels


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
    large, named = classes > MOST_IN_A_COLUMN, classes <= _MOST_NAMES
    side = _CELL * min(classes, _MOST_NAMES) + _BESIDE if large else _WIDTH
    figure, axis = new_figure(1, width=max(side, _WIDTH), height=max(side, _WIDTH) - 0.1)
    shares = (matrix_KK.double() / matrix_KK.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    # From transparent to blue, for any background.
    shades = LinearSegmentedColormap.from_list("blues", [(0, 0.447, 0.698, 0.0), (0, 0.447, 0.698, 1.0)])
    # The root, so that a few mistakes are visible beside many correct predictions.
    depth = shares**0.5
    axis.imshow(depth, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="predicted class", ylabel="true class")
    if named:
        size = 8 if not large else 6.5
        short = [_short(name, 16) for name in names]
        axis.set_xticks(range(classes), short, rotation=90 if large else 45, ha="center" if large else "right",
                        rotation_mode="default" if large else "anchor", fontsize=size)  # fmt: skip
        axis.set_yticks(range(classes), short, fontsize=size)
    else:
        axis.set_xticks([])
        axis.set_yticks([])
    if large and named:
        # Thin lines every five classes lead the eye from a name to its row.
        for place in range(5, classes, 5):
            axis.axhline(place - 0.5, color=GREY, linewidth=0.4, alpha=0.5)
            axis.axvline(place - 0.5, color=GREY, linewidth=0.4, alpha=0.5)
    if classes <= _MOST_NUMBERS:
        for row in range(classes):
            for column in range(classes):
                colour = "white" if depth[row, column] > _DEEP_FROM else DEEP
                count = str(int(matrix_KK[row, column]))
                if count != "0":
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
    """Return a name of at most `most` characters: of a long one both ends, for names often differ in the last word."""
    name = plain(name)
    if len(name) <= most:
        return name
    end = most // 2 - 1
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def _write(setter: Any, words: str, **style: Any) -> None:
    setter(words, **style).set_parse_math(False)


def _no_formulas(axis: Any) -> None:
    """Disable formulas, so that a class called "$x$" is plain text."""
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
