"""Summarise a sweep: its trials by score, the best recipe, and how sure its score is. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.csv_tables import table
from lgkd._internal.metric_rules import SELECTING
from lgkd._internal.text import counted
from lgkd.config import dump_recipe, load_recipe
from lgkd.runs.folder import RECIPE, read_run
from lgkd.runs.statistics import in_percent

BEST, TABLE = "best.yaml", "trials.csv"


@dataclass(frozen=True)
class Swept:
    """Hold the outcome of a sweep.

    Attributes:
        folder: of the sweep.
        metric: on held-out images, a key of `SELECTING`.
        trials: as rows, best first, then those without a score: "trial", "state", "score", "seconds", "epoch" and the
            values by key.
        best: the row of the best one; None where none is finished.
        recipe: the file with its recipe; None where there is none.
        images: held-out images that selected it.
        standard_error: of its top-1 accuracy on them, 0 to 1.
    """

    folder: Path
    metric: str
    trials: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any] | None
    recipe: Path | None
    images: int
    standard_error: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "folder": str(self.folder),
            "metric": self.metric,
            "trials": [dict(row) for row in self.trials],
            "best": None if self.best is None else dict(self.best),
            "recipe": None if self.recipe is None else str(self.recipe),
            "held_out_images": self.images,
            "standard_error": self.standard_error,
        }

    @property
    def sentences(self) -> list[str]:
        """State what the best score is worth."""
        if self.best is None or self.standard_error is None:
            return ["no trial is finished, so there is no best recipe"]
        finished = [row for row in self.trials if row["score"] is not None]
        near = sum(row["score"] >= self.best["score"] - self.standard_error for row in finished) - 1
        others = f"{counted(near, 'other trial')} {'is' if near == 1 else 'are'} within it"
        error = in_percent(self.standard_error)
        return [
            f"best: trial {self.best['trial']}, {SELECTING[self.metric]} {in_percent(self.best['score'])}% on "
            f"{self.images:,} held-out images, which selected it among {counted(len(finished), 'trial')}",
            f"one standard error of top-1 accuracy on so many images is {error} points; {others}",
            "the best of several scores is too high an estimate, and the test split was not asked: train with other "
            f"seeds by --recipe {self.recipe} --seeds 0,1,2, and compare",
        ]


def standard_error(share: float, images: int) -> float:
    """Return the standard error of a share of independent images, sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / images)


def summarise(
    folder: Path, metric: str, rows: Sequence[Mapping[str, Any]], folders: Mapping[int, Path], command: str
) -> Swept:
    """Order the trials, and write the table and the best recipe.

    Args:
        folder: of the sweep.
        metric: that judges.
        rows: of all trials; a finished one has a score.
        folders: of the runs of finished trials, by number.
        command: words on the origin of the recipe.
    """
    ordered = sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["trial"]))
    columns = list(dict.fromkeys(key for row in ordered for key in row))
    cells = [{key: "" if one is None else one for key, one in row.items()} for row in ordered]
    write_atomic(folder / TABLE, table(columns, cells))
    best = next((row for row in ordered if row["score"] is not None), None)
    if best is None:
        return Swept(folder, metric, ordered, None, None, 0, None)
    run = folders[best["trial"]]
    info = read_run(run)
    images, top1 = int(info["dataset"]["val_images"]), float(info["results"]["val_top1"])
    finished = sum(row["score"] is not None for row in rows)
    recipe = load_recipe(run / RECIPE).model_copy(
        update={
            "about": f"The best of {counted(finished, 'trial')} on {images:,} held-out images ({SELECTING[metric]} "
            f"{in_percent(best['score'])}%).",
            "source": command,
            "expect": None,
        }
    )
    write_atomic(folder / BEST, dump_recipe(recipe).encode())
    return Swept(folder, metric, ordered, best, folder / BEST, images, standard_error(top1, images))
