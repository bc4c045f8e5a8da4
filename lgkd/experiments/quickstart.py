"""Run the quickstart in minutes: a teacher, a student alone, and the same student guided, on embedded images.

The comparison is paired: for each seed the two students start from the same weights and see the same images
in the same order and augmentation; only the guide differs. The teacher learns from the same few labels.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.atomic_io import write_json
from lgkd._internal.hardware import processor_seconds, side_by_side
from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.load import load_dataset
from lgkd.data.subsets import hold_out
from lgkd.experiments.quickstart_folder import begun
from lgkd.experiments.quickstart_outcome import (
    DATASET,
    RECIPE,
    RESULTS,
    STUDENT,
    TEACHER,
    WHO,
    Outcome,
    Trial,
    Who,
)
from lgkd.models.memory_format import lay_out
from lgkd.models.teacher import Teacher
from lgkd.models.trust import trust
from lgkd.runner.jobs import Job
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve, resolve_recipe
from lgkd.runner.runner import Runner
from lgkd.runner.side_by_side import train_jobs
from lgkd.runner.sweep import Watch as SweepWatch
from lgkd.runs.compare.layout import check_seeds
from lgkd.runs.folder import read_student
from lgkd.runs.load_student import load_student
from lgkd.runs.plots import draw_gain
from lgkd.training.callbacks import Callback

PER_CLASS = 20
SEEDS = (0, 1, 2, 3, 4, 5)

_HELD_OUT = 0.5
_GRID = 4

Watch = Callable[[str], AbstractContextManager[Callback]]


def quickstart(
    out: str | Path | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    epochs: int | None = None,
    held_out: bool = False,
    overrides: Sequence[str] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Train teacher, unguided and guided student for each seed; write runs, results.json and a figure.

    All follow the recipe "quickstart", each on one CPU thread, and as many at a time as there are physical cores, or
    OMP_NUM_THREADS if that is less; the number changes no result. The user's store is not changed.

    Repeat a stopped call to resume it; the seconds of the whole are then those since.

    Args:
        out: a new or empty folder, or one of an unfinished quickstart of the same choices; None for
            ./quickstart, or ./quickstart-2 and so on where that is taken.
        seeds: at least one. A seed determines labels, weights, order and augmentation.
        epochs: instead of the recipe's, for a shorter trial.
        held_out: measure on a part of the training images that no model learns from, and leave the test split
            alone. This is how the recipe's settings were chosen.
        overrides: "a.b=value" each, changes of the recipe for all three.
        watch: given a title such as "seed 0 guided", a context manager with callbacks.

    Raises:
        InputError: invalid seeds or overrides.
        TakenError: `out` holds something already.
        BusyError: another process is running in it.
    """
    chosen = check_seeds(seeds)
    recipe = resolve_recipe(RECIPE, trains="student", guided=True, epochs=epochs, overrides=overrides)
    full = resolve_recipe(RECIPE, trains="student", guided=True).schedule.count(1)
    length = recipe.schedule.count(1)
    dataset = held_out_digits() if held_out else load_dataset(DATASET)
    every = recipe.evaluate_every if epochs is None else max(1, round(recipe.evaluate_every * length / full))
    choices = {"seeds": list(chosen), "epochs": epochs, "held_out": held_out, "overrides": list(overrides)}
    with begun(Path(out) if out is not None else None, choices) as folder:
        began, cpu_began = time.perf_counter(), processor_seconds()
        jobs = [
            Job(
                _name(seed, who),
                _title(seed, who),
                f"{__name__}:train_trial",
                {
                    "who": who,
                    "seed": seed,
                    "folder": str(folder),
                    "epochs": epochs,
                    "held_out": held_out,
                    # A teacher's curve is not shown, so it need not be measured.
                    "overrides": [*overrides, f"evaluate_every={length if who == 'teacher' else every}"],
                },
                after=(_name(seed, "teacher"),) if who == "guided" else (),
            )
            for seed in chosen
            for who in WHO
        ]
        found = train_jobs(jobs, workers=side_by_side(), watch=_as_callbacks(watch))
        trials = [
            Trial(
                job.arguments["who"],
                job.arguments["seed"],
                found[job.name]["top1"],
                found[job.name]["seconds"],
                tuple((step, top1) for step, top1 in found[job.name]["curve"]),
                folder / job.name,
            )
            for job in jobs
        ]
        last = found[jobs[-1].name]
        outcome = Outcome(
            trials=tuple(trials),
            folder=folder,
            labels=last["labels"],
            images=len(dataset.test),
            split="held-out" if held_out else "test",
            steps=length * last["steps_per_epoch"],
            full_steps=full * last["steps_per_epoch"],
            overrides=tuple(overrides),
            seconds=time.perf_counter() - began,
            cpu_seconds=processor_seconds() - cpu_began,
        )
        write_json(folder / RESULTS, outcome.as_dict())
        _draw(outcome)
        return outcome


def titles(seeds: Sequence[int]) -> list[str]:
    """Return the titles of all trainings, in the order of the trials."""
    return [_title(seed, who) for seed in seeds for who in WHO]


def train_trial(arguments: Mapping[str, Any], callbacks: Options) -> dict[str, Any]:
    """Train one model of the quickstart, or check a finished one, in any process.

    Args:
        arguments: who, seed, folder of the quickstart, epochs, held_out, overrides.
        callbacks: of the training.

    Returns:
        JSON values: the trial's top1, seconds and curve, the number of labels, and the steps of an epoch.
    """
    who, seed, folder = arguments["who"], arguments["seed"], Path(arguments["folder"])
    options: Options = {
        "recipe": RECIPE,
        "epochs": arguments["epochs"],
        "images_per_class": PER_CLASS,
        "subset_seed": seed,
        "seed": seed,
        "device": "cpu",
        "out": folder / _name(seed, who),
        "overrides": [*arguments["overrides"], *([] if who == "guided" else ["guide=null"])],
        **callbacks,
    }
    # A teacher is trained like a student: it stays in this folder and does not enter the user's store.
    trust(STUDENT)
    guides = (_as_teacher(folder / _name(seed, "teacher")),) if who == "guided" else ()
    dataset = held_out_digits() if arguments["held_out"] else DATASET
    run = Runner(resolve("student", TEACHER if who == "teacher" else STUDENT, dataset, options, teachers=guides)).run(
        keep=True
    )
    steps = int(run.info["steps_per_epoch"])
    return {
        "top1": run.top1,
        "seconds": run.info["results"]["training_seconds"],
        "curve": [(int(row["epoch"]) * steps, row["test_top1"]) for row in run.metrics if "test_top1" in row],
        "labels": int(run.info["dataset"]["train_images"]),
        "steps_per_epoch": steps,
    }


def small_vit(num_classes: int, image_size: int) -> nn.Module:
    """Build the student: a plain ViT of width 64 and depth 4 with 4 heads, on 4 x 4 patches; about 200,000 parameters.

    It has fixed sinusoidal positions and mean pooling, with which it learns better alone than with a class token
    and learned positions: a baseline should be as good as it easily can be.

    Source: Beyer et al., Better plain ViT baselines for ImageNet-1k, arXiv 2205.01580.

    Args:
        num_classes: K.
        image_size: side in pixels, a multiple of four.
    """
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
    from timm.models import VisionTransformer

    model = VisionTransformer(
        img_size=image_size,
        patch_size=image_size // _GRID,
        num_classes=num_classes,
        embed_dim=64,
        depth=4,
        num_heads=4,
        class_token=False,
        global_pool="avg",
    )
    positions = build_sincos2d_pos_embed([_GRID, _GRID], dim=64)
    model.pos_embed = nn.Parameter(positions[None], requires_grad=False)
    return model


def held_out_digits() -> DataSet:
    """Load the digits without their test split: half of the training images for labels, half to measure on."""
    digits = load_dataset(DATASET)
    rest, held = hold_out(digits.train, _HELD_OUT)
    fingerprint = fingerprint_of(digits.classes, rest, held)
    return DataSet(f"{DATASET}-held-out", digits.classes, rest, held, fingerprint, digits.notes)


def _name(seed: int, who: Who) -> str:
    return f"seed{seed}-{who}"


def _title(seed: int, who: Who) -> str:
    return f"seed {seed} {who}"


def _as_callbacks(watch: Watch | None) -> SweepWatch | None:
    """Make the callbacks of a sweep from a context manager of one callback."""
    if watch is None:
        return None

    @contextmanager
    def callbacks(title: str) -> Iterator[Options]:
        with watch(title) as watcher:
            yield {"watchers": (watcher,)}

    return callbacks


def _as_teacher(folder: Path) -> Teacher:
    """Load the teacher of a finished run."""
    about = read_student(folder)
    height, width = about["image_size"]
    model = load_student(folder)
    lay_out(model)  # as it was trained: the order in memory changes the last bits of its maps
    return Teacher(model, image_size=(height, width), mean=about["mean"], std=about["std"])


def _draw(outcome: Outcome) -> None:
    widest = outcome.widest
    draw_gain(
        outcome.figure,
        steps=[step for step, _ in outcome.of("guided")[0].curve],
        unguided=[[top1 for _, top1 in trial.curve] for trial in outcome.of("unguided")],
        guided=[[top1 for _, top1 in trial.curve] for trial in outcome.of("guided")],
        teacher=outcome.top1("teacher").mean,
        widest=widest.place,
        title=f"A small transformer on {outcome.labels} labelled digits, alone and guided",
        measured_on=f"{outcome.images} {outcome.split} images",
    )
