"""What a training writes down of itself: who teaches, a row an epoch, and what it comes to."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd.config import Recipe
from lgkd.distillation.guide import Guide
from lgkd.models.teacher import Teacher
from lgkd.runs.folder import write_metrics
from lgkd.training.callbacks import Callback, EpochRow


class Journal(Callback):
    """A watcher of the loop that keeps metrics.csv current.

    Args:
        folder: the run's.
        writes: whether the file is written; of several processes one does that.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes
        self.rows: list[dict[str, float]] = []

    def on_epoch(self, row: EpochRow) -> None:
        """Write the file anew, with one row more."""
        self.rows.append(row.flatten())
        if self._writes:
            write_metrics(self.folder, self.rows)


def results(
    rows: Sequence[Mapping[str, float]], best: Mapping[str, float] | None = None, guides: Sequence[Guide] = ()
) -> dict[str, Any]:
    """What a run is worth, on the test split.

    Args:
        rows: of metrics.csv.
        best: the epoch that did best on held-out images, where there were any; otherwise the last one counts.
        guides: of the training, which know the terms that have ended.

    The best epoch on the test split is what the field's papers print; it stands beside the result, labelled so.
    """
    chosen = rows[-1] if best is None else next(row for row in rows if row["epoch"] == best["epoch"])
    peak = max((row for row in rows if "test_top1" in row), key=lambda row: row["test_top1"])
    return {
        **{key: value for key, value in chosen.items() if key.startswith(("test_", "val_"))},
        "epoch": int(chosen["epoch"]),
        "selected_on": None if best is None else "val",
        "best_epoch_on_the_test_split": {"epoch": int(peak["epoch"]), "test_top1": peak["test_top1"]},
        "training_seconds": round(sum(row["seconds"] for row in rows), 1),
        "evaluation_seconds": round(sum(row["evaluation_seconds"] for row in rows), 1),
        **({"ended_terms": _ended_terms(guides, int(rows[-1]["epoch"]))} if guides else {}),
    }


def _ended_terms(guides: Sequence[Guide], epochs: int) -> list[dict[str, Any]]:
    """Every term that ended before the training did, with the epoch after which it did, and why."""
    return [
        {"term": name, "epoch": epoch, "reason": reason}
        for guide in guides
        for name, (epoch, reason) in guide.ended().items()
        if epoch < epochs
    ]


def about_run(info: Mapping[str, Any], recipe: Recipe) -> dict[str, bool | int | float | str]:
    """A run as plain values by name, for trackers: who learns what from whom, and how. Holds no path."""
    teachers = [info["teacher"], *info["more_teachers"]] if info["teacher"] else []
    data = info["dataset"]
    known: dict[str, Any] = {
        "lgkd": info["lgkd"],
        "kind": info["kind"],
        "student": info["student"],
        "teacher": "+".join(teacher["name"] or teacher["class"] for teacher in teachers) or None,
        "dataset": {name: data[name] for name in ("name", "classes", "train_images", "test_images", "subset")},
        **{name: info[name] for name in ("seed", "device", "precision", "processes", "epochs", "steps_per_epoch")},
        "recipe": {"name": info["recipe"], **recipe.model_dump(mode="json", exclude={"about", "source", "expect"})},
    }
    return dict(_plain(known))


def _plain(value: Any, path: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _plain(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, bool | int | float | str):
        yield path, value
    elif value:
        yield path, json.dumps(value)


def about_pairs(guide: Guide) -> list[dict[str, Any]]:
    """The guided pairs for run.json: layers, map shapes (C,h,w), and the grid on which they meet."""
    return [
        {
            "student": pair.student,
            "student_map": list(pair.student_map),
            "teacher": pair.teacher,
            "teacher_map": list(pair.teacher_map),
            "grid": list(pair.grid),
        }
        for pair in guide.pairs
    ]


def about_teacher(teacher: Teacher) -> dict[str, Any]:
    """The teacher for run.json; one without a card has a class and no name."""
    card = teacher.card
    if card is None:
        return {"name": None, "class": type(teacher.model).__name__, "sha256": None, "batch_norm": teacher.batch_norm}
    return {
        "name": card.architecture,
        "kept_as": card.name,
        "sha256": card.weights_sha256,
        "subset": card.subset,
        "test_top1": card.accuracy.top1,
        "image_size": list(teacher.image_size),
        "batch_norm": teacher.batch_norm,
    }
