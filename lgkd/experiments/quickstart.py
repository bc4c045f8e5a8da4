"""Run the quickstart in minutes: a teacher, a student alone, and the same student guided, on embedded images.

The comparison is paired: for each seed the two students start from the same weights and see the same images
in the same order and augmentation; only the guide differs. The teacher learns from the same few labels.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from lgkd import __version__
from lgkd._internal.atomic_io import write_json
from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.load import load_dataset
from lgkd.data.subsets import hold_out
from lgkd.experiments.quickstart_folder import begun
from lgkd.models.teacher import Teacher
from lgkd.models.trust import trust
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve, resolve_recipe
from lgkd.runner.run import Run
from lgkd.runner.runner import Runner
from lgkd.runner.sweep import QueuedRun, train_in_turn
from lgkd.runner.sweep import Watch as SweepWatch
from lgkd.runs.compare.layout import check_seeds
from lgkd.runs.folder import is_finished, read_student
from lgkd.runs.plots import draw_gain
from lgkd.runs.statistics import Interval, Summary, paired_interval, summarise
from lgkd.training.callbacks import Callback

Who = Literal["teacher", "unguided", "guided"]
WHO: tuple[Who, ...] = get_args(Who)

DATASET, RECIPE, PER_CLASS = "digits", "quickstart", 20
TEACHER = "resnet8"
STUDENT = "lgkd.quickstart:small_vit"
SEEDS = (0, 1, 2)
FIGURE, RESULTS = "quickstart.png", "results.json"

_HELD_OUT = 0.5
_GRID = 4

Watch = Callable[[str], AbstractContextManager[Callback]]


@dataclass(frozen=True)
class Trial:
    """Represent one of the trainings.

    Attributes:
        who: the trained model.
        seed: of labels, weights, order and augmentation.
        top1: accuracy after the last epoch, 0 to 1.
        seconds: of training, without evaluation.
        curve: (steps taken, accuracy) at every evaluation.
        folder: the run's folder.
    """

    who: Who
    seed: int
    top1: float
    seconds: float
    curve: tuple[tuple[int, float], ...]
    folder: Path


@dataclass(frozen=True)
class Widest:
    """Represent the point with the largest lead of the guided students, in the mean over the seeds.

    Attributes:
        place: index of the measured point, from 0.
        step: optimiser steps taken.
        gain: guided less unguided accuracy, -1 to 1.
    """

    place: int
    step: int
    gain: float


@dataclass(frozen=True)
class Outcome:
    """Hold the results of a quickstart.

    Attributes:
        trials: three for each seed, in the order in which they were run.
        folder: holds the runs, results.json and the figure.
        labels, images: number of training images, and of images measured on.
        split: the images measured on: "test", or "held-out" part of the training images.
        steps, full_steps: optimiser steps of a training, and of one of full length.
        overrides: changes of the recipe.
        seconds, cpu_seconds: of the whole: by the clock, and of all processor cores together.
    """

    trials: tuple[Trial, ...]
    folder: Path
    labels: int
    images: int
    split: str
    steps: int
    full_steps: int
    overrides: tuple[str, ...]
    seconds: float
    cpu_seconds: float

    def of(self, who: Who) -> list[Trial]:
        """Return the trials of one kind, in the order of the seeds."""
        return [trial for trial in self.trials if trial.who == who]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds, in the order in which they were run."""
        return [trial.seed for trial in self.of("guided")]

    def top1(self, who: Who) -> Summary:
        """Return the accuracy over the seeds, 0 to 1."""
        return summarise([trial.top1 for trial in self.of(who)])

    def seconds_of(self, who: Who) -> float:
        """Return the mean time of one training."""
        return summarise([trial.seconds for trial in self.of(who)]).mean

    @property
    def gain(self) -> Interval:
        """Compute guided less unguided accuracy, paired by seed, with its 95 % t-interval."""
        return paired_interval(
            [trial.top1 for trial in self.of("unguided")], [trial.top1 for trial in self.of("guided")]
        )

    @property
    def widest(self) -> Widest:
        """Find the point where the mean curves are farthest apart in favour of the guided students."""
        gains = [
            summarise([after - before for after, before in zip(guided, alone, strict=True)]).mean
            for guided, alone in zip(_columns(self.of("guided")), _columns(self.of("unguided")), strict=True)
        ]
        place = max(range(len(gains)), key=gains.__getitem__)
        return Widest(place, self.of("guided")[0].curve[place][0], gains[place])

    @property
    def figure(self) -> Path:
        """Return the path of the curves as PNG."""
        return self.folder / FIGURE

    def as_dict(self) -> dict[str, Any]:
        """Return the content of results.json."""
        gain, widest = self.gain, self.widest
        return {
            "format": 1,
            "lgkd": __version__,
            "dataset": DATASET,
            "labels": self.labels,
            "measured_on": {"split": self.split, "images": self.images},
            "teacher": TEACHER,
            "student": STUDENT,
            "recipe": RECIPE,
            "overrides": list(self.overrides),
            "steps": self.steps,
            "shortened": self.steps < self.full_steps,
            "seeds": self.seeds,
            "top1": {who: {"mean": self.top1(who).mean, "sd": self.top1(who).sd} for who in WHO},
            "training_seconds": {who: round(self.seconds_of(who), 2) for who in WHO},
            "gain": {
                "mean": gain.mean,
                "low": gain.low,
                "high": gain.high,
                "confidence": gain.confidence,
                "seeds": gain.count,
                "includes_zero": gain.includes_zero,
            },
            "widest_on_the_way": {"step": widest.step, "gain": widest.gain},
            "runs": [
                {
                    "who": trial.who,
                    "seed": trial.seed,
                    "top1": trial.top1,
                    "training_seconds": trial.seconds,
                    "curve": [{"step": step, "top1": top1} for step, top1 in trial.curve],
                    "folder": trial.folder.name,
                }
                for trial in self.trials
            ],
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "figure": FIGURE,
        }


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

    All three follow the recipe "quickstart" on one CPU thread; the user's store is not changed.

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
    with begun(Path(out) if out is not None else None, choices) as folder, _one_thread():
        began, cpu_began = time.perf_counter(), time.process_time()
        trials: list[Trial] = []
        runs: list[Run] = []
        teachers: dict[int, Teacher] = {}

        def queued(seed: int, who: Who) -> QueuedRun:
            # A teacher's curve is not shown, so it need not be measured.
            changes = [*overrides, f"evaluate_every={length if who == 'teacher' else every}"]
            place = folder / f"seed{seed}-{who}"
            options: Options = {
                "recipe": RECIPE,
                "epochs": epochs,
                "images_per_class": PER_CLASS,
                "subset_seed": seed,
                "seed": seed,
                "device": "cpu",
                "out": place,
                "overrides": changes if who == "guided" else [*changes, "guide=null"],
            }

            def train(callbacks: Options, _began: float) -> float:
                run = _train(who, dataset if held_out else DATASET, teachers.get(seed), {**options, **callbacks})
                if who == "teacher":
                    teachers[seed] = _as_teacher(run)
                trials.append(_trial(who, seed, run))
                runs[:] = [run]
                return run.top1

            return QueuedRun(place.name, f"seed {seed} {who}", lambda: is_finished(place), train)

        queue = [queued(seed, who) for seed in chosen for who in WHO]
        train_in_turn(queue, watch=_as_callbacks(watch), counted=False)
        run = runs[-1]
        steps_per_epoch = int(run.info["steps_per_epoch"])
        outcome = Outcome(
            trials=tuple(trials),
            folder=folder,
            labels=int(run.info["dataset"]["train_images"]),
            images=len(dataset.test),
            split="held-out" if held_out else "test",
            steps=length * steps_per_epoch,
            full_steps=full * steps_per_epoch,
            overrides=tuple(overrides),
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu_began,
        )
        write_json(folder / RESULTS, outcome.as_dict())
        _draw(outcome)
        return outcome


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: such small networks gain little from a second one, and slow down when threads wait for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_callbacks(watch: Watch | None) -> SweepWatch | None:
    """Make the callbacks of a sweep from a context manager of one callback."""
    if watch is None:
        return None

    @contextmanager
    def callbacks(title: str) -> Iterator[Options]:
        with watch(title) as watcher:
            yield {"watchers": (watcher,)}

    return callbacks


def _train(who: Who, dataset: str | DataSet, teacher: Teacher | None, options: Options) -> Run:
    # A teacher is trained like a student: it stays in this folder and does not enter the user's store.
    trust(STUDENT)
    guides = (teacher,) if who == "guided" and teacher is not None else ()
    config = resolve("student", TEACHER if who == "teacher" else STUDENT, dataset, options, teachers=guides)
    return Runner(config).run(keep=True)


def _as_teacher(run: Run) -> Teacher:
    about = read_student(run.folder)
    height, width = about["image_size"]
    return Teacher(run.student, image_size=(height, width), mean=about["mean"], std=about["std"])


def _trial(who: Who, seed: int, run: Run) -> Trial:
    steps = int(run.info["steps_per_epoch"])
    curve = tuple((int(row["epoch"]) * steps, row["test_top1"]) for row in run.metrics if "test_top1" in row)
    return Trial(who, seed, run.top1, run.info["results"]["training_seconds"], curve, run.folder)


def _columns(trials: Sequence[Trial]) -> list[tuple[float, ...]]:
    """Return the accuracies of all seeds for each measured point."""
    return list(zip(*([top1 for _, top1 in trial.curve] for trial in trials), strict=True))


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
