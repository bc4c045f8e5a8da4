"""Compose the sentences of a report. None claims more than the numbers do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.metric_rules import MAP, headline
from lgkd.analysis.report.selection import Chosen
from lgkd.runs.class_results import (
    about_never_predicted,
    by_class_of,
    class_metrics,
    has_unequal_classes,
    selected_by,
)
from lgkd.runs.compare.find import Finished
from lgkd.runs.compare.summary import balanced_line, equal_line, gain_lines
from lgkd.runs.early_stop import stopped_early, trained_epochs
from lgkd.runs.ended_terms import ended_terms
from lgkd.runs.statistics import in_percent

_HOUR, _MINUTE = 3600, 60


def who(info: Mapping[str, Any]) -> str:
    """Name student and teachers, as in "deit_tiny, guided by resnet20"."""
    by = " and ".join(map(called, teachers_of(info)))
    name = str(info["student"]["name"]).rpartition(":")[2]
    if info["kind"] == "teacher":
        return f"{name}, trained as a teacher"
    return f"{name}, guided by {by}" if by else f"{name}, unguided"


def teachers_of(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entry of each teacher in run.json."""
    return [one for one in (info.get("teacher"), *(info.get("more_teachers") or ())) if one]


def called(teacher: Mapping[str, Any]) -> str:
    """Return the teacher's name; in the store its part of the images is added to it, which is said elsewhere."""
    return str(teacher.get("kept_as") or teacher.get("name") or teacher.get("class")).partition("--")[0]


def _build(info: Mapping[str, Any]) -> str:
    """Describe the model by parameters and options, as a name does not identify a reduced one."""
    student = info["student"]
    options = [f"{key} {_value(value)}" for key, value in (student.get("options") or {}).items()]
    model = "teacher" if info["kind"] == "teacher" else "student"
    built = f"The {model} has {student['parameters']:,} parameters" + (f": {', '.join(options)}." if options else ".")
    return built if (start := _start(info)) is None else f"{built} {start}"


def _start(info: Mapping[str, Any]) -> str | None:
    """Describe trained weights that the run started from; None where it started from untrained ones."""
    init = info.get("init")
    if not isinstance(init, Mapping):
        return None
    before = init.get("epochs_before")
    more = f", with the optimiser's state after {before} epochs" if isinstance(before, int) else ""
    return f"It started from trained weights ({Path(str(init.get('path'))).name}, SHA-256 {init.get('sha256')}){more}."


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _teachers(info: Mapping[str, Any]) -> list[str]:
    """State the accuracy of each teacher, where it is known."""
    known = [(called(one), one.get("subset"), one, one.get(f"test_{headline(one).key}")) for one in teachers_of(info)]
    return [
        f"The teacher {name}{f', trained on {part},' if part else ''} {_does(one, found)}."
        for name, part, one, found in known
        if isinstance(found, int | float)
    ]


def _does(scores: Mapping[str, Any], value: float) -> str:
    """State the main metric of some scores, after the name of a model."""
    if headline(scores) == MAP:
        return f"reaches a mean average precision of {in_percent(value)}% on the test images"
    return f"classifies {in_percent(value)}% of the test images correctly"


def name_of(run: Finished) -> str:
    """Name a run among those that differ by seed or fold: "seed 0", "fold 2", or "seed 0, fold 2"."""
    if run.fold is None:
        return f"seed {run.seed}"
    return f"fold {run.fold}" if not run.seed else f"seed {run.seed}, fold {run.fold}"


def when(runs: Sequence[Finished]) -> str:
    """List the seeds or folds, and the time at which the last of them finished."""
    ends = [str(run.info["finished"]) for run in runs if run.info.get("finished")]
    finished = max(ends, default="at an unknown time")
    return f"{_names(runs)}, finished {finished.replace('T', ' ').replace('+00:00', ' UTC')}"


def _names(runs: Sequence[Finished]) -> str:
    """List runs: "Seed 0", "Seeds 0, 1", "Folds 1, 2, 3", or "Seed 0, fold 1; seed 1, fold 1" where both differ."""
    by_fold = runs[0].fold is not None
    if by_fold and any(run.seed for run in runs):
        named = "; ".join(map(name_of, runs))
        return named[0].upper() + named[1:]
    unit = "Fold" if by_fold else "Seed"
    return f"{unit}{'s' * (len(runs) > 1)} {', '.join(str(run.fold if by_fold else run.seed) for run in runs)}"


def summary(chosen: Chosen) -> list[str]:
    """Summarise the training and its results."""
    info = chosen.main.info
    data, results = info["dataset"], info["results"]
    part = f" ({data['subset']})" if data.get("subset") else ""
    lines = [
        f"{who(info)}: {_epochs(info)} on {data['train_images']:,} images of {data['name']}{part}, "
        f"{data['classes']} classes. {_build(info)}",
        *_teachers(info),
        f"{_with(chosen.main)} it {_result(results, data['test_images'])} {_when(results)}.",
        *_alike(results),
    ]
    best = results["best_epoch_on_the_test_split"]
    if best["epoch"] != results["epoch"]:
        value = in_percent(best[f"test_{headline(best).key}"])
        lines.append(
            f"Its best epoch on the test split is {best['epoch']}, with {value}%: the "
            "figure that papers of this field print, selected on the images that it is measured on."
        )
    count = len(chosen.ours.runs)
    for run in chosen.ours.runs:
        if (stopped := stopped_early(run.info)) is not None:
            words = str(stopped)
            lines.append(f"{_with(run)}: {words}." if count > 1 else f"{words[0].upper()}{words[1:]}.")
        ended = [str(one) for one in ended_terms(run.info, run.rows)]
        if ended:
            lines.append(f"{f'{_with(run)}: ' if count > 1 else ''}{'. '.join(ended)}.")
    if count > 1:
        spread = f" (standard deviation {in_percent(chosen.ours.sd or 0)} points)"
        lines.append(
            f"Over {count} {chosen.ours.units} the mean is {in_percent(chosen.ours.top1.mean)}%{spread}: "
            f"{_names(chosen.ours.runs).lower()}."
        )
    return lines + _gain(chosen, single=count == 1)


def _with(run: Finished) -> str:
    return f"On {name_of(run)}" if run.fold is not None and not run.seed else f"With {name_of(run)}"


def _epochs(info: Mapping[str, Any]) -> str:
    """State the epochs that were trained, of those that were planned."""
    trained = trained_epochs(info)
    return f"{trained} epochs" if trained == info["epochs"] else f"{trained} of {info['epochs']} epochs"


def _result(results: Mapping[str, Any], images: int) -> str:
    if headline(results) == MAP:
        return f"reaches a mean average precision of {in_percent(results['test_map'])}% on {images:,} test images"
    return f"classifies {in_percent(results['test_top1'])}% of {images:,} test images correctly"


def _alike(results: Mapping[str, Any]) -> list[str]:
    """State the metrics in which every class counts alike, for classes of unequal size, and classes never predicted."""
    lines = []
    if has_unequal_classes(results):
        shown = [f"{name} {value}" for name, value in class_metrics(results).items()]
        lines.append(
            "The classes have unequal numbers of test images, so that accuracy counts the large ones most. Where every "
            f"class counts alike: {', '.join(shown)}."
        )
    by_class = by_class_of(results)
    never = None if by_class is None else about_never_predicted(by_class)
    return [*lines, f"{never}."] if never is not None else lines


def _gain(chosen: Chosen, *, single: bool) -> list[str]:
    difference, baseline = chosen.difference, chosen.baseline
    if difference is None or baseline is None:
        one = chosen.ours.units.removesuffix("s")
        lone = f" One {one} is not a result: other {one}s can differ by more than a method gains." if single else ""
        return [f"No baseline was given, so the guide's gain is unknown.{lone}"]
    unpaired = "" if difference.paired else f"{len(chosen.ours.runs)} against {len(baseline.runs)}"
    gains = gain_lines(
        "Gain over the baseline", difference.interval, [gain for _, gain in difference.by_seed],
        units=chosen.ours.units, unpaired=unpaired,
    )  # fmt: skip
    many = f"mean of {len(baseline.runs)} {baseline.units}" if len(baseline.runs) > 1 else name_of(baseline.runs[0])
    lines = [
        f"The baseline is {who(baseline.runs[0].info)}: {in_percent(baseline.top1.mean)}% ({many}).",
        " ".join(gains),
        *filter(None, [balanced_line(difference)]),
    ]
    remarks = [remark[0].upper() + remark[1:] + "." for remark in chosen.remarks]
    if (equal := equal_line(difference)) is not None:
        remarks.insert(0, equal)
    if remarks:
        letters = f"Here {chosen.ours.letter} is this run, {baseline.letter} the baseline."
        lines.append(" ".join([*remarks, letters]))
    return lines


def _when(results: Mapping[str, Any]) -> str:
    if results.get("selected_on"):
        return f"after epoch {results['epoch']}, which did best on held-out training images by {selected_by(results)}"
    return f"after the last epoch, {results['epoch']}; nothing was selected"


def duration(seconds: float) -> str:
    """Format seconds in words: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def cost(info: Mapping[str, Any], rows: Sequence[Mapping[str, float]], folder: Path) -> list[tuple[str, str]]:
    """Return names and values of the run's cost."""
    results = info["results"]
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    weights = folder / "student.safetensors"
    found = [
        ("training", duration(results["training_seconds"])),
        ("evaluation on the way", duration(results.get("evaluation_seconds", 0.0))),
        *([("processor time", duration(results["processor_seconds"]))] if "processor_seconds" in results else []),
        ("images a second in training", f"{sum(speeds) / len(speeds):,.0f}" if speeds else "not recorded"),
        ("epochs, steps", f"{(epochs := trained_epochs(info))}, {epochs * info['steps_per_epoch']:,}"),
        ("parameters of the student", f"{info['student']['parameters']:,}"),
        ("size of its weights", f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "not available"),
        ("number format", str(info["precision"])),
        ("processes", str(info.get("processes", 1))),
    ]
    memory = max((row["memory_mb"] for row in rows if "memory_mb" in row), default=None)
    return [*found, ("memory, highest", "not recorded by this run" if memory is None else f"{memory:,.0f} MB")]


def environment(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of env.json, which holds only named things."""
    return [
        (f"{name}: {key}" if isinstance(value, Mapping) else name, "none" if inner is None else str(inner))
        for name, value in env.items()
        for key, inner in (value.items() if isinstance(value, Mapping) else [("", value)])
        if name != "format"
    ]
