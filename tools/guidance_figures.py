"""Draws the figures of docs/guidance.md: what meets where is asked of a guide, schedules of their own class.

python -m tools.guidance_figures [FOLDER]
"""

import sys
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Text
from torch.nn.functional import interpolate

from lgkd.config import TermSchedule
from lgkd.distillation.guide import Guide, PairShape, Term
from lgkd.losses import MapLoss
from lgkd.models.factory import create_student, create_teacher
from lgkd.models.teacher import Teacher

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "img"
STUDENT, TEACHER, LOSS, PLAIN = "#2a6fb0", "#b5651d", "#1f6f63", "#555555"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "lgkd",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def pairs() -> list[PairShape]:
    """Where DeiT-Tiny at 224 px and a ResNet-56 at 32 px meet."""
    student = create_student("deit_tiny", num_classes=100, image_size=224)
    teacher = Teacher(create_teacher("resnet56", num_classes=100), image_size=32)
    guide = Guide(student, teacher, image_size=224, terms=[Term(MapLoss("linear"))])
    guide.remove()
    return guide.pairs


def box(at: Axes, x: float, y: float, words: str, colour: str, *, width: float = 2.2, height: float = 0.62) -> None:
    """Words in a rounded box around (x, y)."""
    corner = (x - width / 2, y - height / 2)
    at.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", fc="white", ec=colour, lw=1.4)
    )
    at.text(x, y, words, ha="center", va="center", color=colour, linespacing=1.35)


def arrow(at: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = PLAIN) -> None:
    """From one point to another."""
    at.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, lw=1.2))


def by(*sides: int) -> str:
    return " × ".join(f"{side}" for side in sides)


def method(met: list[PairShape]) -> Figure:
    """The student above, the frozen teacher below, and between them the three pairs of maps."""
    figure, at = plt.subplots(figsize=(9.6, 6.1))
    at.set(xlim=(0, 12.6), ylim=(-0.35, 7.75))
    at.axis("off")
    columns, names = (4.1, 6.7, 9.3), ("first block", "middle block", "last block")
    top, bottom = 6.9, 0.5
    at.text(0.1, 7.55, "student: learns", color=STUDENT, weight="bold", va="center")
    at.text(0.1, -0.15, "teacher: frozen, gone after the training", color=TEACHER, weight="bold", va="center")
    box(at, 1.15, 3.75, "image\naugmented\n224 px", PLAIN, width=1.6, height=1.05)
    box(at, 1.15, top, "patches\nof 16 px", STUDENT, width=1.6)
    box(at, 1.15, bottom, "resized\nto 32 px", TEACHER, width=1.6)
    arrow(at, (1.15, 4.28), (1.15, top - 0.31))
    arrow(at, (1.15, 3.22), (1.15, 0.81))
    for place, (pair, x, name) in enumerate(zip(met, columns, names, strict=True)):
        before = 1.95 if place == 0 else columns[place - 1] + 1.1
        for y, colour in ((top, STUDENT), (bottom, TEACHER)):
            arrow(at, (before, y), (x - 1.1, y), colour)
        width, *_ = pair.student_map
        channels, *_ = pair.teacher_map
        box(at, x, top, f"{name}\n{pair.student}", STUDENT)
        box(at, x, 5.75, f"tokens folded\n{by(*pair.student_map)}", STUDENT)
        box(at, x, 4.6, f"1 × 1 convolution\n{width} → {channels} channels", LOSS)
        box(at, x, 3.45, f"resized to {by(*pair.grid)}\nmean squared error", LOSS)
        box(at, x, 2.1, f"map of the stage\n{by(*pair.teacher_map)}", TEACHER)
        box(at, x, bottom, f"{pair.teacher}", TEACHER)
        arrow(at, (x, top - 0.31), (x, 6.06), STUDENT)
        arrow(at, (x, 5.44), (x, 4.91), STUDENT)
        arrow(at, (x, 4.29), (x, 3.76), LOSS)
        arrow(at, (x, bottom + 0.31), (x, 1.79), TEACHER)
        arrow(at, (x, 2.41), (x, 3.14), TEACHER)
    box(at, 11.8, top, "head", STUDENT, width=1.2)
    box(at, 11.8, 5.75, "cross\nentropy", LOSS, width=1.2)
    box(at, 11.8, 3.45, "loss", LOSS, width=1.2)
    arrow(at, (columns[-1] + 1.1, top), (11.2, top), STUDENT)
    arrow(at, (11.8, top - 0.31), (11.8, 6.06), STUDENT)
    arrow(at, (11.8, 5.44), (11.8, 3.76), LOSS)
    arrow(at, (columns[-1] + 1.1, 3.45), (11.2, 3.45), LOSS)
    for x, following in pairwise(columns):
        at.text((x + following) / 2, 3.45, "+", ha="center", va="center", color=LOSS, size=13)
    at.text(11.55, 4.5, "+", ha="center", va="center", color=LOSS, size=13)
    at.text(10.8, 3.58, "× 2.5", ha="center", va="bottom", color=LOSS)
    return figure


def folding() -> Figure:
    """From a row of tokens to a map, and from a map to the finer grid."""
    chance = np.random.default_rng(3)
    values = chance.random((4, 4))
    figure, (row, grid, coarse, fine) = plt.subplots(
        1, 4, figsize=(9.6, 2.7), gridspec_kw={"width_ratios": [0.75, 1, 1, 1], "wspace": 0.35}
    )
    shown = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    row.imshow(values.reshape(16, 1)[:8], **shown, aspect="auto", extent=(0, 1, 8, 0))
    row.set(xlim=(-0.2, 1.2), ylim=(9.2, -1.35), title="tokens")
    row.add_patch(plt.Rectangle((0, -1.2), 1, 1, fill=False, ec=PLAIN, ls="--"))
    row.text(0.5, -0.7, "class token: out", ha="center", va="center", size=7, color=PLAIN)
    row.text(0.5, 8.6, "... up to 16", ha="center", va="center", size=7, color=PLAIN)
    grid.imshow(values, **shown)
    grid.set_title("folded: 4 × 4")
    for place, value in enumerate(values.ravel()):
        colour = "black" if value > 0.55 else "white"
        grid.text(place % 4, place // 4, f"{place + 1}", ha="center", va="center", color=colour)
        if place < 8:
            row.text(0.5, place + 0.5, f"{place + 1}", ha="center", va="center", color=colour)
    wave = np.sin(np.linspace(0, 3, 8))[:, None] * np.cos(np.linspace(-1, 1.4, 8))[None, :]
    finer = interpolate(torch.from_numpy(values)[None, None], size=(8, 8), mode="bilinear", align_corners=False)
    coarse.imshow(finer[0, 0].numpy(), **shown)
    coarse.set_title("resized: 8 × 8")
    fine.imshow(np.clip(wave, 0, 1), **shown)
    fine.set_title("teacher: 8 × 8")
    for at in (row, grid, coarse, fine):
        at.set(xticks=[], yticks=[])
        at.spines[:].set_visible(at is not row)
    figure.text(0.275, 0.46, "→", ha="center", size=15, color=PLAIN)
    figure.text(0.505, 0.46, "→", ha="center", size=15, color=PLAIN)
    figure.text(0.712, 0.455, "−", ha="center", size=20, color=LOSS)
    return figure


SCHEDULES = {
    "constant": TermSchedule(),
    "warmup: 20": TermSchedule(warmup=20),
    "shape: cosine, end: 0.1": TermSchedule(shape="cosine", end=0.1),
    "shape: steps, factor: 0.3": TermSchedule(shape="steps", milestones=(100, 200), factor=0.3),
    "until: 150": TermSchedule(until=150),
}


def schedules(epochs: int = 300) -> Figure:
    """The factor of a term's weight over a training, one panel a schedule."""
    figure, panels = plt.subplots(1, len(SCHEDULES), figsize=(9.6, 1.9), sharey=True, layout="constrained")
    places = np.linspace(0, epochs, 101)
    for at, (words, schedule) in zip(panels, SCHEDULES.items(), strict=True):
        end = schedule.until or epochs + 1
        factors = [schedule.at(float(epoch), epochs) if epoch < end else 0.0 for epoch in places]
        at.fill_between(places, factors, color=LOSS, alpha=0.18, lw=0)
        at.plot(places, factors, color=LOSS, lw=1.8)
        at.set(xlim=(0, epochs), ylim=(0, 1.08), xticks=[0, 150, 300], yticks=[0, 0.5, 1])
        at.set_title(words.replace(", ", ",\n"), size=8, color=PLAIN)
        at.set_xlabel("epoch", color=PLAIN)
        at.spines[["top", "right"]].set_visible(False)
        at.tick_params(colors=PLAIN)
    panels[0].set_ylabel("factor of the weight", color=PLAIN)
    return figure


def draw(folder: Path) -> list[Path]:
    """Write the figures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figures = {"guidance": method(pairs()), "folding": folding(), "term-schedules": schedules()}
        for name, figure in figures.items():
            words = [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]
            about = {"Date": None, "Creator": None, "Description": " / ".join(words).replace("\n", ", ")}
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata=about)
            plt.close(figure)
    return [folder / f"{name}.svg" for name in figures]


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
