"""Draws docs/img/cifar100-images-per-class.svg from the rows of docs/results.md, and from nothing else.

python -m tools.results_figures [FOLDER]
"""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

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
            counts, means, spreads = zip(*points, strict=True)
            colour, line = ARMS[arm]
            at.errorbar(
                counts,
                means,
                spreads if any(spreads) else None,
                color=colour,
                linestyle=line,
                marker="o",
                ms=4,
                capsize=3,
                lw=1.6,
            )
            at.annotate(
                arm, (counts[-1], means[-1]), xytext=(9, 0), textcoords="offset points", color=colour, va="center"
            )
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


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
