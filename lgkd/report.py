"""Pictures of runs."""

from collections.abc import Mapping, Sequence
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
    for key, colour in zip(parts, (BLUE, ORANGE, GREEN, GREY), strict=False):
        _line(right, rows, key, key.removeprefix("loss_").replace("_", " "), colour)
    right.set(xlabel="epoch", ylabel="loss, not weighted", title="parts of the loss")
    finish(figure, (left, right), path)


def new_figure(panels: int) -> tuple[Any, Any]:
    """A figure with panels side by side; drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels, 3.8), dpi=130, layout="constrained")
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
