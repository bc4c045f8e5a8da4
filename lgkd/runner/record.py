"""Record a training: the content of run.json, a row of metrics.csv per epoch, and the results."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lgkd import __version__
from lgkd._internal.metric_rules import headline
from lgkd.config import Recipe
from lgkd.data.groups import Groups
from lgkd.data.names import place_of
from lgkd.data.prepare import Data
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.serving import Served
from lgkd.models.teacher import Teacher
from lgkd.runner.options import saved_options
from lgkd.runner.prepared import Session
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.run_folder import recipe_name
from lgkd.runs.class_results import BY_CLASS
from lgkd.runs.folder import now, write_metrics
from lgkd.training.callbacks import Callback, EpochRow
from lgkd.training.class_scores import ClassScores
from lgkd.training.config import Plan


class CsvLogger(Callback):
    """Write metrics.csv after every epoch.

    Args:
        folder: the run's.
        writes: whether the file is written; of several processes one writes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes
        self.rows: list[dict[str, float]] = []

    def on_epoch(self, row: EpochRow) -> None:
        """Write the file again, with one more row."""
        self.rows.append(row.flatten())
        if self._writes:
            write_metrics(self.folder, self.rows)


def results(
    rows: Sequence[Mapping[str, float]],
    best: Mapping[str, float] | None = None,
    guides: Sequence[Guide] = (),
    *,
    select_by: str | None = None,
    by_class: Mapping[str, ClassScores] | None = None,
) -> dict[str, Any]:
    """Summarise the results of a run on the test split.

    Args:
        rows: of metrics.csv.
        best: the epoch that is best on held-out images, where there were any; otherwise the last one counts.
        guides: of the training, which know the terms that have ended.
        select_by: the metric on held-out images that selected the epoch; that of `headline` if not given.
        by_class: scores of every class on the test split after the epoch that counts.

    The best epoch on the test split is common in papers; it is stored beside the result, with that label.
    """
    chosen = rows[-1] if best is None else next(row for row in rows if row["epoch"] == best["epoch"])
    main = headline(chosen).key
    peak = max((row for row in rows if f"test_{main}" in row), key=lambda row: row[f"test_{main}"])
    return {
        **{key: value for key, value in chosen.items() if key.startswith(("test_", "val_"))},
        "epoch": int(chosen["epoch"]),
        "selected_on": None if best is None else "val",
        **({} if best is None else {"selected_by": select_by or main}),
        "best_epoch_on_the_test_split": {"epoch": int(peak["epoch"]), f"test_{main}": peak[f"test_{main}"]},
        "training_seconds": round(sum(row["seconds"] for row in rows), 1),
        "evaluation_seconds": round(sum(row["evaluation_seconds"] for row in rows), 1),
        **_processor_time(rows),
        **({"ended_terms": _ended_terms(guides, int(rows[-1]["epoch"]))} if guides else {}),
        **({} if by_class is None else {BY_CLASS: {name: one.as_dict() for name, one in by_class.items()}}),
    }


def _processor_time(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum the processor time of all epochs; empty if an older version trained some."""
    known = [row["processor_seconds"] for row in rows if "processor_seconds" in row]
    return {"processor_seconds": round(sum(known), 1)} if len(known) == len(rows) else {}


def _ended_terms(guides: Sequence[Guide], epochs: int) -> list[dict[str, Any]]:
    """List every term that ended before the training did, with the epoch after which it did, and why."""
    return [
        {"term": name, "epoch": epoch, "reason": reason}
        for guide in guides
        for name, (epoch, reason) in guide.ended().items()
        if epoch < epochs
    ]


def describe_run(info: Mapping[str, Any], recipe: Recipe) -> dict[str, bool | int | float | str]:
    """Describe a run as plain values by name, for trackers: student, teacher, data and settings. Holds no path."""
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


def describe_pairs(guide: Guide) -> list[dict[str, Any]]:
    """Describe the guided pairs for run.json: layers, map shapes (C,h,w), and the grid of their comparison."""
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


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """Describe the teacher for run.json; one without a card has a class and no name."""
    card = teacher.card
    if card is None:
        kind = type(teacher.model).__name__
        plain = {"name": None, "class": kind, "sha256": None, "batch_norm": teacher.batch_norm}
        return {**plain, **teacher.source, **({"image_size": list(teacher.image_size)} if teacher.source else {})}
    return {
        "name": card.architecture,
        "kept_as": card.name,
        "sha256": card.weights_sha256,
        "subset": card.subset,
        **({"test_top1": card.accuracy.top1} if card.accuracy.map is None else {"test_map": card.accuracy.map}),
        "image_size": list(teacher.image_size),
        "batch_norm": teacher.batch_norm,
        **teacher.source,
    }


def describe_training(
    config: ResolvedConfig,
    session: Session,
    data: Data,
    student: nn.Module,
    guides: Sequence[Guide],
    image_size: tuple[int, int],
    plan: Plan,
) -> dict[str, Any]:
    """Make the content of run.json of a new training."""
    options, dataset = config.options, config.dataset
    path = place_of(dataset) if isinstance(dataset, str | Path) else None
    data_dir = options.get("data_dir")
    taught = [guide.teacher for guide in guides if guide.has_teacher]
    return {
        "kind": "teacher" if config.role == "teacher" else ("distill" if taught else "train"),
        "status": "running",
        "lgkd": __version__,
        "started": now(),
        "student": {
            "name": config.model_name,
            "options": config.model_options,
            "image_size": list(image_size),
            "parameters": sum(parameter.numel() for parameter in student.parameters()),
        },
        "teacher": describe_teacher(taught[0]) if taught else None,
        "more_teachers": [describe_teacher(teacher) for teacher in taught[1:]],
        "cached": None,
        "pairs": [pair for guide in guides for pair in describe_pairs(guide)],
        "dataset": {
            "name": data.key,
            "path": path,
            "data_dir": str(Path(data_dir).resolve()) if data_dir is not None else None,
            "fingerprint": data.fingerprint,
            "classes": len(data.classes),
            "train_images": len(data.train),
            "test_images": len(data.test),
            "val_images": len(data.val) if data.val is not None else None,
            **({"val_fingerprint": data.val_fingerprint} if data.val_fingerprint is not None else {}),
            "subset": data.subset,
            "near_copies_left_out": data.left_out,
            "groups": describe_groups(data.groups, flat=data.flat),
            "extra": _describe_extra(data),
            **data.greys.kept(),
            **({"stored_side": data.stored_side} if data.stored_side is not None else {}),
            **({"multi_label": True} if data.multi_label else {}),
        },
        "recipe": recipe_name(options["recipe"]),
        "overrides": list(options.get("overrides") or ()),
        "seed": config.seed,
        "device": session.device,
        "deterministic": bool(options.get("deterministic")),
        "select_by": _select_by(options.get("select_by"), "map" if data.multi_label else "top1"),
        "processes": session.process.count,
        "precision": plan.precision,
        "compiled": plan.compile,
        "accumulate": plan.accumulate,
        "epochs": plan.epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        **({"time": dict(config.fitted)} if config.fitted is not None else {}),
    }


def _select_by(metric: str | None, default: str) -> str | None:
    """Return the metric that selects the epoch; None for the default, also where it is named."""
    return None if metric == default else metric


def describe_call(config: ResolvedConfig, served: Served | None, data: Data) -> dict[str, Any] | None:
    """Make `call` of run.json, the options of `lgkd resume`; None where something has no name."""
    if config.call is None:
        return None
    cached = {} if served is None else {"cached": served.folders, "approximate": served.approximate}
    side = {} if data.stored_side is None else {"stored_side": data.stored_side}
    options = saved_options({**config.options, **cached, **side})
    return {"model_options": config.model_options, **config.call, "options": options}


def describe_groups(groups: Groups | None, *, flat: bool) -> dict[str, Any] | None:
    """Describe the groups of a run for run.json; `flat` as in `Data`."""
    if groups is None:
        return None
    return {"by": groups.name, "table": groups.value if groups.kind == "csv" else None, "of_the_test_split": flat}


def _describe_extra(data: Data) -> dict[str, Any] | None:
    extra = data.extra
    if extra is None:
        return None
    return {
        "path": str(extra.folder.resolve()),
        "images": len(extra.images),
        "share": extra.share,
        "fingerprint": extra.fingerprint,
    }
