"""Pictures of runs."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]

# Okabe and Ito's colours, which people of all colour vision tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def draw_curves(rows: Rows, path: Path, title: str) -> None:
    """Accuracy and the parts of the loss over the epochs of one run, as PNG."""
    figure, (left, right) = new_figure(2)
    _line(left, rows, "train_accuracy", "training batches (augmented)", GREY)
    _line(left, rows, "test_top1", "test split", BLUE)
    left.set(xlabel="epoch", ylabel="top-1 accuracy", title=title)
    left.set_ylim(bottom=0)
    parts = [key for key in (rows[0] if rows else {}) if key.startswith("loss_")]
    for key, colour in zip(parts, cycle((BLUE, ORANGE, GREEN, GREY)), strict=False):
        _line(right, rows, key, key.removeprefix("loss_").replace("_", " "), colour)
    right.set(xlabel="epoch", ylabel="loss, not weighted", title="parts of the loss")
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
    """Accuracy on the way with and without a guide, as PNG: every seed thin, their mean thick, the widest gap marked.

    Args:
        path: of the PNG.
        steps: where accuracy was measured.
        unguided, guided: for each seed the accuracies there, 0 to 1.
        teacher: mean accuracy of the teachers.
        widest: place in `steps` where the guided students are ahead by most.
        title, measured_on: words.
    """
    figure, axis = new_figure(1, width=8.0, height=4.6)
    ends = {}
    for label, curves, colour in (("unguided", unguided, BLUE), ("guided", guided, ORANGE)):
        mean = [sum(column) / len(column) for column in zip(*curves, strict=True)]
        for curve in curves:
            axis.plot(steps, curve, color=colour, linewidth=0.8, alpha=0.45)
        axis.plot(steps, mean, color=colour, linewidth=2.4, marker="o", markersize=3.5)
        ends[label] = (mean, colour)
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


def _mark_gap(axis: "Axes", step: float, low: float, high: float, *, late: bool) -> None:
    """An arrow over the gap, and its size in points where the curves leave room: below them, inside the axes."""
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
    """The name and last value of each line beside its end, moved apart where they would overlap."""
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


def new_figure(panels: int, *, width: float = 5.2, height: float = 3.8) -> tuple[Any, Any]:
    """A figure with panels side by side, each of so many inches; drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    return figure, axes


def finish(figure: Any, axes: Sequence["Axes"], path: Path) -> None:
    """The house style, and out to the file."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    figure.savefig(path)


def _line(axis: "Axes", rows: Rows, key: str, label: str, colour: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if key in row]
    if points:
        marker = "o" if len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker)
