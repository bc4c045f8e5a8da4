"""Measure the time in which a training reaches an accuracy, guided and unguided, the teacher's training included.

A fixed training's curve cannot answer that: in its middle the learning rate has not decayed, so its accuracy is below
that of a whole training which ends there. So whole trainings of doubled time are made, each from scratch, until one
ends with the accuracy. The true time is between the last two; the shorter trainings are shown, and not counted.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lgkd._internal.hardware import processor_seconds
from lgkd._internal.text import counted
from lgkd.benchmark.options import Choices
from lgkd.benchmark.target import Target, check_trained
from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.load import load_dataset
from lgkd.data.subsets import hold_out
from lgkd.errors import Interrupted, Paused
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_store import read_card
from lgkd.runner.build import load_kept_teacher, load_trained_teacher
from lgkd.runner.fit_time import fit_time
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, resolve
from lgkd.runner.run import Run
from lgkd.runner.runner import Runner
from lgkd.runs.folder import environment, now
from lgkd.training.precision import choose_device

FORMAT = 1
HELD_OUT = 0.1
"""Share of the training images of every class that accuracy is measured on."""

PROTOCOL = (
    "whole trainings of doubled time, each from scratch, until the first whose last epoch has the accuracy on held-out "
    "training images; the shorter ones are shown and not counted; the true time is between the last two. Reading the "
    "images is not counted"
)

_AT_THE_END = ("evaluate_every=1000000",)
"""Override of a recipe: the last epoch alone is evaluated."""

Kind = Literal["guided", "unguided"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """Hold the time of a training: by the clock, and of all processor cores together."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


def bench_to_accuracy(
    choices: Choices, target: Target, *, command: str | None = None, say: Say = lambda _: None
) -> dict[str, Any]:
    """Train a student, with and without its teacher, until both have an accuracy.

    The test split is not used: a part of the training images is held out from student and teacher. Nothing is kept.

    Args:
        choices: student, data set, perhaps a teacher, and the settings of their training.
        target: the accuracy, and the times to try.
        command: as typed, for the document.
        say: called with each training before and after it.

    Returns:
        A JSON document; docs/performance.md explains it.

    Raises:
        InputError: there is no student or data set, or not time for the fewest steps.
        Interrupted, Paused: a signal.
    """
    check_trained(choices, target)
    assert choices.dataset is not None
    data = held_out_dataset(load_dataset(choices.dataset, data_dir=choices.data_dir))
    kinds: list[Kind] = ["guided", "unguided"] if choices.guided else ["unguided"]
    with tempfile.TemporaryDirectory(prefix="lgkd-bench-") as name, _nothing_kept():
        folder, teacher, teacher_cost, about_teacher = Path(name), None, Cost(), None
        if choices.guided:
            teacher, teacher_cost, about_teacher = _teacher(choices, target, data, folder, say)
        rows: list[dict[str, Any]] = []
        for kind in kinds:
            extra = teacher_cost if kind == "guided" else Cost()
            guides = [teacher] if kind == "guided" and teacher is not None else []
            for seconds in target.times:
                say(f"{kind}, {seconds:,.0f} s")
                config = _student(choices, data, guides, folder / f"{kind}-{len(rows)}", seconds)
                run, steps, cost = _timed(config)
                rows.append(_row(kind, seconds, steps, run, cost, extra, target))
                say(f"{kind}, {seconds:,.0f} s: {rows[-1]['accuracy']:.2%} after {counted(steps or 0, 'step')}")
                if rows[-1]["reached"]:
                    break
    return {
        "format": FORMAT,
        "command": command,
        "date": now(),
        "machine": environment(choose_device(choices.device)),
        "choices": choices.about(),
        "target": asdict(target),
        "protocol": PROTOCOL,
        "seeds": [choices.seed],
        "images": {"train": len(data.train), "held_out": len(data.test), "share": HELD_OUT},
        "teacher": about_teacher,
        "rows": rows,
        "reached": {
            kind: next((row for row in rows if row["kind"] == kind and row["reached"]), None) for kind in kinds
        },
    }


def held_out_dataset(dataset: DataSet) -> DataSet:
    """Replace the test split by a part of the training images that no model learns from."""
    rest, held = hold_out(dataset.train, HELD_OUT, classes=dataset.classes)
    fingerprint = fingerprint_of(dataset.classes, rest, held)
    return replace(dataset, name=f"{dataset.name}-held-out", train=rest, test=held, fingerprint=fingerprint)


def _teacher(
    choices: Choices, target: Target, data: DataSet, folder: Path, say: Say
) -> tuple[Teacher, Cost, dict[str, Any]]:
    """Train the teacher on the images of the student, or load the one of the store."""
    name, dataset = choices.teacher, choices.dataset
    assert name is not None and dataset is not None
    about: dict[str, Any] = {"name": name, "stored": target.stored_teacher, "recipe": None, "accuracy": None}
    if target.stored_teacher:
        return load_trained_teacher(name, dataset), Cost(), about | asdict(Cost())
    say(f"teacher {name}")
    options: Options = {
        "recipe": target.teacher_recipe,
        "seed": choices.seed,
        "device": choices.device,
        "out": folder / "teacher",
        "overrides": _AT_THE_END,
    }
    if target.teacher_time is not None:
        options["time"] = target.teacher_time
    store = folder / "teachers" / data.name / name
    run, steps, cost = _timed(resolve("teacher", name, data, options, store=store))
    accuracy = _accuracy(run)
    say(f"teacher {name}: {accuracy:.2%} after {cost.seconds:,.0f} s")
    about |= {"recipe": target.teacher_recipe, "accuracy": accuracy, "steps": steps, **asdict(cost)}
    return load_kept_teacher(read_card(store), store), cost, about


def _student(
    choices: Choices, data: DataSet, guides: Sequence[Teacher], folder: Path, seconds: float
) -> ResolvedConfig:
    options: Options = {
        "recipe": choices.recipe_name,
        "image_size": choices.image_size,
        "batch_size": choices.batch_size,
        "precision": choices.precision,
        "overrides": [*choices.overrides, *_AT_THE_END],
        "device": choices.device,
        "compile": choices.compile,
        "cuda_graphs": choices.cuda_graphs,
        "seed": choices.seed,
        "time": seconds,
        "out": folder,
    }
    assert choices.student is not None
    return resolve("student", choices.student, data, options, model_options=choices.student_options, teachers=guides)


def _timed(config: ResolvedConfig) -> tuple[Run, int | None, Cost]:
    """Train; return the run, its steps where a time sets them, and its cost, the choice of the steps included."""
    began, cpu_began = time.monotonic(), processor_seconds()
    fitted = fit_time(config, began=began)
    run = Runner(fitted, began=began).run()
    return run, fitted.recipe.schedule.steps, Cost(time.monotonic() - began, processor_seconds() - cpu_began)


def _row(
    kind: Kind, seconds: float, steps: int | None, run: Run, cost: Cost, teacher: Cost, target: Target
) -> dict[str, Any]:
    accuracy = _accuracy(run)
    return {
        "kind": kind,
        "time": seconds,
        "steps": steps,
        "accuracy": accuracy,
        **asdict(cost),
        "teacher_seconds": teacher.seconds,
        "teacher_cpu_seconds": teacher.cpu_seconds,
        "total_seconds": cost.seconds + teacher.seconds,
        "total_cpu_seconds": cost.cpu_seconds + teacher.cpu_seconds,
        "reached": accuracy >= target.accuracy,
    }


def _accuracy(run: Run) -> float:
    """Return top-1 on the held-out images after the last epoch."""
    return float(run.metrics[-1]["test_top1"])


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Replace the advice of a stopped training, which is to resume it."""
    advice = "the trainings of --to-accuracy are not kept; run the same command again, and it begins anew"
    try:
        yield
    except Paused:
        raise Paused(f"stopped by a signal; {advice}") from None
    except Interrupted as error:
        raise Interrupted(f"stopped by a signal; {advice}", error.exit_code - 128) from None
