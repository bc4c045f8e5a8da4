"""Plot runs and comparisons as PNG or SVG."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lgkd._internal.metric_rules import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]

# Okabe and Ito's colours, which are distinguishable with all forms of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_MORE_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00")


@dataclass(frozen=True)
class Measured:
    """Hold a row of a comparison's plot: a mean with its interval and the single values.

    Attributes:
        label: shown left of the row.
        values: one a seed; may be empty.
        mean: of them.
        low, high: the ends of its interval; None where there is none.
        colour: of the row.
    """

    label: str
    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None
    colour: str


def draw_curves(rows: Rows, path: Path, title: str, *, balanced: bool = False) -> None:
    """Plot accuracy and the parts of the loss over the epochs of one run, as PNG.

    Args:
        rows: of metrics.csv.
        path: of the PNG.
        title: a text.
        balanced: also plot balanced accuracy, as for classes of unequal size.
    """
    figure, (left, right) = new_figure(2)
    _line(left, rows, "train_accuracy", "training batches (augmented)", GREY)
    main = headline(next((row for row in reversed(rows) if "test_loss" in row), {}))
    _line(left, rows, f"test_{main.key}", "test split", BLUE)
    if balanced:
        _line(left, rows, "test_balanced_accuracy", "test split, balanced accuracy", ORANGE)
    left.set(xlabel="epoch", ylabel="accuracy" if balanced else main.name, title=wrapped(title, 52))
    left.set_ylim(bottom=0)
    parts = [key for key in (rows[0] if rows else {}) if key.startswith("loss_")]
    for key, colour in zip(parts, cycle((BLUE, ORANGE, GREEN, GREY)), strict=False):
        _line(right, rows, key, key.removeprefix("loss_").replace("_", " "), colour)
    right.set(xlabel="epoch", ylabel="loss, not weighted", title="parts of the loss")
    count_epochs(left)
    count_epochs(right)
    finish(figure, (left, right), path)


def draw_gain(
    path: Path,
    *,
    steps: Sequence[int],
    unguided: Sequence[Sequence[float]],
    guided: Sequence[Sequence[float]],
    teacher: float,
    widest: int,
    title: str,
    measured_on: str,
) -> None:
    """Plot accuracy with and without a guide, as PNG: each seed thin, the mean thick, the widest gap marked.

    Args:
        path: of the PNG.
        steps: at which accuracy was measured.
        unguided, guided: for each seed the accuracies there, 0 to 1.
        teacher: mean accuracy of the teachers.
        widest: index in `steps` where the lead of the guided students is largest.
        title, measured_on: texts.
    """
    figure, axis = new_figure(1, width=8.0, height=4.6)
    ends = {}
    for label, curves, colour in (("unguided", unguided, BLUE), ("guided", guided, ORANGE)):
        ends[label] = (_draw_mean(axis, steps, curves, colour), colour)
    axis.axhline(teacher, color=GREY, linestyle=(0, (5, 3)), linewidth=1.3)
    (low, _), (high, _) = ends["unguided"], ends["guided"]
    _mark_gap(axis, steps[widest], low[widest], high[widest], late=widest > 0.6 * len(steps))
    _label_right(axis, [(*ends["unguided"], "unguided"), (*ends["guided"], "guided"), ([teacher], GREY, "teacher")])
    axis.set(xlabel="optimiser steps", ylabel=f"top-1 accuracy on {measured_on}")
    axis.set_ylim(0, 1)
    axis.set_xlim(0, steps[-1])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    count = len(guided)
    axis.set_title(title, loc="left", fontweight="bold")
    figure.supxlabel(
        f"thick: mean of {count} seeds, thin: each seed" if count > 1 else "one seed", fontsize=8, color=GREY, x=0.98,
        ha="right",
    )  # fmt: skip
    finish(figure, (axis,), path)


def colour_of(place: int) -> str:
    """Return the colour of the item at an index; colours repeat after six."""
    colours = (BLUE, ORANGE, GREEN, *_MORE_COLOURS)
    return colours[place % len(colours)]


def draw_comparison(
    path: Path,
    *,
    curves: Sequence[tuple[str, Sequence[float], Sequence[Sequence[float]]]],
    rows: Sequence[Measured],
    what: str,
    signed: bool,
    title: str,
    units: str = "seeds",
) -> None:
    """Plot groups of runs, as PNG: accuracy over the epochs, and differences with their intervals.

    Args:
        path: of the PNG.
        curves: of each group its label, the epochs at which it was measured, and for each seed the accuracies there,
            0 to 1; the colours are those of `colour_of`.
        rows: the right panel, from the top; in percent or points.
        what: the quantity of the rows.
        signed: whether they are differences, so that 0 is marked.
        title: a text.
        units: what runs of a group differ by, "seeds" or "folds".
    """
    figure, (left, right) = new_figure(2, width=6.4, height=4.2 + 0.25 * max(0, len(rows) - 5))
    for place, (label, epochs, seeds) in enumerate(curves):
        _draw_mean(left, epochs, seeds, colour_of(place), label=wrapped(f"{label} ({_counted(len(seeds), units)})"))
    left.set(xlabel="epoch", ylabel="top-1 accuracy on the test split")
    left.set_ylim(bottom=0)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    left.set_title(wrapped(title, 60), loc="left", fontweight="bold")
    count_epochs(left)
    if signed:
        right.axvline(0, color=GREY, linewidth=1.2)
    for place, row in enumerate(rows):
        right.plot(row.values, [place] * len(row.values), "o", color=row.colour, alpha=0.4, markersize=5)
        if row.low is not None and row.high is not None:
            right.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2.2)
            right.plot([row.low, row.high], [place, place], "|", color=row.colour, markersize=12, markeredgewidth=2.2)
        right.plot([row.mean], [place], "D", color=row.colour, markersize=8)
        sign = "+" if signed else ""
        ends = _counted(1, units) if row.low is None else f"{row.low:{sign}.2f} to {row.high:{sign}.2f}"
        right.annotate(
            f"{row.mean:{sign}.2f} ({ends})",
            (row.mean, place),
            xytext=(0, 11),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )
    right.set_yticks(range(len(rows)), [wrapped(row.label, 22) for row in rows])
    right.set_ylim(len(rows) - 0.4, -0.7)
    right.margins(x=0.18)
    right.set_xlabel(what)
    each = units.removesuffix("s")
    how = f"thick: mean of the {units}, thin: each {each}; diamond: mean, bar: its 95% t-interval, dots: each {each}"
    figure.supxlabel(how, fontsize=8, color=GREY, x=0.98, ha="right")
    finish(figure, (left, right), path)


def _draw_mean(
    axis: "Axes", places: Sequence[float], seeds: Sequence[Sequence[float]], colour: str, *, label: str | None = None
) -> list[float]:
    """Draw each seed thin and their mean thick; return the mean."""
    mean = [sum(column) / len(column) for column in zip(*seeds, strict=True)]
    for curve in seeds:
        axis.plot(places, curve, color=colour, linewidth=0.8, alpha=0.45)
    axis.plot(places, mean, color=colour, linewidth=2.4, marker="o", markersize=3.5, label=label)
    return mean


def wrapped(text: str, width: int = 44) -> str:
    """Wrap a label; escape formulas and characters that are not printable."""
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return "\n".join(wrap(plain, width)).replace("$", r"\$")


def _counted(count: int, units: str) -> str:
    return f"one {units.removesuffix('s')}" if count == 1 else f"{count} {units}"


def _mark_gap(axis: "Axes", step: float, low: float, high: float, *, late: bool) -> None:
    """Draw an arrow over the gap, with its size in points below the curves, inside the axes."""
    if high <= low:
        return
    axis.annotate("", (step, high), (step, low), arrowprops={"arrowstyle": "<->", "color": "black", "linewidth": 1.2})
    axis.annotate(
        f"widest gap of the means:\n{100 * (high - low):+.1f} points at step {step:,}",
        (step, low),
        xytext=(-12 if late else 12, -14),
        textcoords="offset points",
        va="top",
        ha="right" if late else "left",
        fontsize=9,
    )


def _label_right(axis: "Axes", lines: Sequence[tuple[Sequence[float], str, str]]) -> None:
    """Draw the name and last value of each line beside its end, moved apart where they would overlap."""
    apart, place = 0.055, float("-inf")
    for values, colour, name in sorted(lines, key=lambda line: line[0][-1]):
        place = max(values[-1], place + apart)
        axis.annotate(
            f"{name} {values[-1]:.1%}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def new_figure(panels: int, *, width: float = 5.2, height: float = 3.8, rows: int = 1) -> tuple[Any, Any]:
    """Create a figure with panels side by side (and in rows), each of the given size in inches, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, panels)
    return figure, axes


def finish(figure: Any, axes: Sequence["Axes"], path: Path) -> None:
    """Apply the common style and save the figure."""
    dress(axes)
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the name is readable elsewhere, so no warning.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(path)


def as_svg(figure: Any) -> str:
    """Render a figure as an SVG document without background, with text as text; deterministic."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lgkd"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def count_epochs(axis: "Axes") -> None:
    """Put ticks on whole epochs only."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def dress(axes: Sequence["Axes"]) -> None:
    """Apply the common style."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)


def _line(axis: "Axes", rows: Rows, key: str, label: str, colour: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if key in row]
    if points:
        marker = "o" if len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker)
