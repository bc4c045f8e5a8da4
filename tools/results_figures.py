"""Draws docs/img/cifar100-images-per-class.svg and cifar100-evening.svg from the rows of docs/results.md alone.

python -m tools.results_figures [FOLDER]
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from tools.guidance_figures import FOLDER, PLAIN, STUDENT, STYLE, TEACHER

NAME = "cifar100-images-per-class"
RESULTS = FOLDER.parent / "results.md"
ARMS = {"ResNet-20, the teacher": (TEACHER, ":"), "locality guidance": (STUDENT, "-"), "unguided": (PLAIN, "--")}


def rows(text: str) -> dict[str, list[tuple[int, float, float]]]:
    """Of each kind of arm: images a class, mean top-1 after the last epoch, and spread (0 for one seed); in percent."""
    found: dict[str, list[tuple[int, float, float]]] = {arm: [] for arm in ARMS}
    for count, arm, mean, _, spread in re.findall(
        r"^\| (\d+) a class: ([^|]+?) \| [\d, ]+ \| ([\d.]+)( ± ([\d.]+))? \|", text, flags=re.MULTILINE
    ):
        found[arm].append((int(count), float(mean), float(spread or 0)))
    if not all(found.values()):
        raise SystemExit(f"docs/results.md lacks rows of {NAME}; write them with: lgkd reproduce {NAME}")
    return {arm: sorted(points) for arm, points in found.items()}


def _line(at: Axes, arm: str, points: Sequence[tuple[float, float, float]], colour: str, line: str) -> None:
    """Draw the points of an arm, (place, mean, spread), with bars where there is a spread, and its name at the end."""
    places, means, spreads = zip(*points, strict=True)
    bars = spreads if any(spreads) else None
    at.errorbar(places, means, bars, color=colour, linestyle=line, marker="o", ms=4, capsize=3, lw=1.6)
    at.annotate(arm, (places[-1], means[-1]), xytext=(9, 0), textcoords="offset points", color=colour, va="center")


def draw(folder: Path) -> Path:
    """The picture's path."""
    found = rows(RESULTS.read_text(encoding="utf-8"))
    told = "; ".join(
        f"{arm}: " + ", ".join(f"{mean:.2f} ± {spread:.2f} at {count}" for count, mean, spread in points)
        for arm, points in found.items()
    )
    with plt.rc_context(STYLE):
        figure, at = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
        for arm, points in found.items():
            _line(at, arm, points, *ARMS[arm])
        at.set_xscale("log")
        at.set_xticks([10, 25, 50, 100], ["10", "25", "50", "100"])
        at.minorticks_off()
        at.set_xlim(9, 330)
        at.set_ylim(bottom=0)
        at.set_xlabel("images of each class")
        at.set_ylabel("top-1 on the test split, %")
        at.spines[["top", "right"]].set_visible(False)
        at.grid(axis="y", color="#dddddd", lw=0.6)
        path = folder / f"{NAME}.svg"
        title = "Accuracy by images of each class, guided and unguided"
        figure.savefig(path, metadata={"Date": None, "Title": title, "Description": told})
        plt.close(figure)
    return path


EVENING = "cifar100-evening"
_ARM = re.compile(
    r"^\| (\d+) minutes: ([^|]+?) \| [\d, ]+ \| ([\d.]+)(?: ± ([\d.]+))? \|(?:[^|\n]*\|)*?"
    r" [^|\n]*?([\d.]+) (min|h) of processor time \|",
    flags=re.MULTILINE,
)
GOALS = (
    (65.08, "published: DeiT-Ti, unguided, 300 epochs at 224 px"),
    (78.15, "published: DeiT-Ti, guided, 300 epochs at 224 px"),
)


def evening_rows(text: str) -> dict[str, list[tuple[float, float, float]]]:
    """Of guided and unguided students: minutes of a core, the teacher's included, mean top-1, and spread."""
    arms = [
        (int(time), arm, float(mean), float(spread or 0), float(took) * (60 if unit == "h" else 1))
        for time, arm, mean, spread, took, unit in _ARM.findall(text)
    ]
    teachers = {time: took for time, arm, _, _, took in arms if "the teacher" in arm}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for time, arm, mean, spread, took in arms:
        if "the teacher" not in arm:
            guided = not arm.endswith("unguided")
            minutes = round(took + (teachers[time] if guided else 0.0), 1)
            found.setdefault("guided" if guided else "unguided", []).append((minutes, mean, spread))
    if "guided" not in found:
        raise SystemExit(f"docs/results.md lacks rows of {EVENING}; write them with: lgkd reproduce {EVENING}")
    return {arm: sorted(points) for arm, points in found.items()}


def draw_evening(folder: Path) -> Path:
    """The path of the picture of accuracy by minutes."""
    found = evening_rows(RESULTS.read_text(encoding="utf-8"))
    told = "; ".join(
        f"{arm}: " + ", ".join(f"{mean:.2f} ± {spread:.2f} in {minutes:g} minutes" for minutes, mean, spread in points)
        for arm, points in found.items()
    )
    with plt.rc_context(STYLE):
        figure, at = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
        for value, words in GOALS:
            at.axhline(value, color="#999999", lw=0.8, ls=":")
            at.annotate(words, (0.99, value), xycoords=("axes fraction", "data"), xytext=(0, 3), ha="right",
                        textcoords="offset points", color="#666666", fontsize="small")  # fmt: skip
        for arm, points in found.items():
            _line(at, arm, points, *ARMS["unguided" if arm == "unguided" else "locality guidance"])
        at.set_xlim(0, 1.25 * max(points[-1][0] for points in found.values()))
        at.set_ylim(50, 82)
        at.set_xlabel("minutes of one CPU core, the teacher's included")
        at.set_ylabel("top-1 on the test split, %")
        at.spines[["top", "right"]].set_visible(False)
        at.grid(axis="y", color="#dddddd", lw=0.6)
        path = folder / f"{EVENING}.svg"
        title = "CIFAR-100: accuracy by minutes of one CPU core, guided and unguided"
        figure.savefig(path, metadata={"Date": None, "Title": title, "Description": told})
        plt.close(figure)
    return path


if __name__ == "__main__":
    for drawing in (draw, draw_evening):
        print(drawing(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
