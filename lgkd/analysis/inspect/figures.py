"""Draw the figures of an inspection, as PNG.

Letters in shapes: H W image size, h w map size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lgkd.runs.plots import GREY, colour_of, dress, finish, new_figure


@dataclass(frozen=True)
class Distances:
    """Hold the mean attention distances of one student.

    Attributes:
        who: label of the student.
        layers: names of the blocks, in order.
        heads: for each block the distance of every head, in pixels.
        even: for each block, that of a head that attends to all patches equally.
    """

    who: str
    layers: Sequence[str]
    heads: Sequence[Sequence[float]]
    even: Sequence[float]


def draw_distances(path: Path, students: Sequence[Distances]) -> None:
    """Draw a panel for each student: a dot for every head, a line for their mean."""
    figure, axes = new_figure(len(students), width=5.0, height=3.9)
    panels = [axes] if len(students) == 1 else list(axes)
    highest = max(max(max(heads), even) for one in students for heads, even in zip(one.heads, one.even, strict=True))
    for axis, one, place in zip(panels, students, _places(students), strict=True):
        colour = colour_of(place)
        for number, heads in enumerate(one.heads, 1):
            axis.plot([number] * len(heads), heads, "o", color=colour, alpha=0.5, markersize=5)
        numbers = range(1, len(one.layers) + 1)
        axis.plot(numbers, [sum(heads) / len(heads) for heads in one.heads], color=colour, label="mean of the heads")
        axis.plot(numbers, one.even, color=GREY, linestyle=(0, (5, 3)), label="attention to all patches alike")
        axis.set(xlabel="block", ylabel="mean attention distance, pixels", ylim=(0, 1.08 * highest))
        axis.set_xticks(numbers)
        axis.set_title(one.who, loc="left", fontweight="bold")
    finish(figure, panels, path)


def draw_similarities(path: Path, students: Sequence[tuple[str, Sequence[str], Tensor]], stages: Sequence[str]) -> None:
    """Draw a panel for each student: CKA of its blocks (from below) with the teacher's stages.

    Args:
        students: name, names of the blocks, CKA (blocks, stages).
        stages: the teacher's layers.
    """
    tallest = max(len(layers) for _, layers, _ in students)
    figure, axes = new_figure(len(students), width=4.2, height=1.6 + 0.3 * tallest)
    panels = [axes] if len(students) == 1 else list(axes)
    for axis, (who, layers, values) in zip(panels, students, strict=True):
        shown = axis.imshow(values.cpu().numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        axis.set_xticks(range(len(stages)), list(stages), fontsize=8)
        axis.set_yticks(range(len(layers)), list(layers), fontsize=8)
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                ink = "black" if value > 0.6 else "white"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_title(who, loc="left", fontweight="bold")
        axis.set_xlabel("teacher's stage")
    figure.colorbar(shown, ax=panels, label="linear CKA", fraction=0.05)
    figure.savefig(path)


def draw_corruptions(
    path: Path, clean: Mapping[str, float], found: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Draw a panel for each kind: accuracy over severity; severity 0 is the original image.

    Args:
        clean: accuracy of each student on the original images, 0 to 1.
        found: for each kind, for each student its accuracies at severities 1, 2, ...
    """
    figure, axes = new_figure(len(found), width=2.9, height=3.4)
    panels = [axes] if len(found) == 1 else list(axes)
    highest = max([*clean.values(), *(max(values) for kind in found.values() for values in kind.values())])
    for axis, (kind, students) in zip(panels, found.items(), strict=True):
        for who, place in zip(students, _places(list(students)), strict=True):
            values = [clean[who], *students[who]]
            axis.plot(range(len(values)), values, color=colour_of(place), marker="o", markersize=4, label=who)
        axis.set(xlabel="severity", ylim=(0, 1.08 * max(highest, 0.01)))
        axis.set_xticks(range(len(values)))
        axis.set_title(kind, loc="left", fontweight="bold")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panels[0].set_ylabel("top-1 accuracy")
    dress(panels)
    for axis in panels[1:]:
        if axis.get_legend() is not None:
            axis.get_legend().remove()
    figure.savefig(path)


@dataclass(frozen=True)
class Column:
    """Represent one column of a picture of maps.

    Attributes:
        title: above it.
        maps: one for each image, (h,w) each.
        marks: of each image a marked position, as shares of width and height; None for none.
    """

    title: str
    maps: Sequence[Tensor]
    mark: tuple[float, float] | None = None


def draw_maps(path: Path, images: Sequence[Tensor], names: Sequence[str], columns: Sequence[Column]) -> None:
    """Draw images in rows and the models' maps in columns. Every map is scaled from its minimum to its maximum.

    Args:
        images: uint8 (3,H,W) each.
        names: below them.
    """
    figure, axes = new_figure(1 + len(columns), width=1.35, height=1.5, rows=len(images))
    grid = axes.reshape(len(images), -1)
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        grid[row][0].imshow(image.permute(1, 2, 0).numpy())
        grid[row][0].set_xlabel(name, fontsize=7).set_parse_math(False)
        for axis, column in zip(grid[row][1:], columns, strict=True):
            axis.imshow(column.maps[row].cpu().numpy(), cmap="magma", extent=(0, 1, 1, 0), interpolation="nearest")
            if column.mark is not None:
                axis.plot(*column.mark, "+", color="#00e5ff", markersize=9, markeredgewidth=1.8)
    for axis, column in zip(grid[0][1:], columns, strict=True):
        axis.set_title(column.title, fontsize=8)
    for axis in grid.flatten():
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path)


def energy(map_Chw: Tensor) -> Tensor:
    """Compute the norm over channels of the difference from the map's mean, (h,w)."""
    differing = map_Chw.float() - map_Chw.float().mean(dim=(1, 2), keepdim=True)
    return differing.square().sum(dim=0).sqrt()


def _places(students: Sequence[object]) -> list[int]:
    """Return colour positions: guided students first in orange, their baselines in blue, as in other pictures."""
    return [1, 0] if len(students) == 2 else list(range(1, len(students) + 1))
