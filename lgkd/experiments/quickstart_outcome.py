"""Hold the results of the quickstart: its trainings, accuracies, gain, and the content of results.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lgkd import __version__
from lgkd.runs.statistics import Interval, Summary, paired_interval, summarise

Who = Literal["teacher", "unguided", "guided"]
WHO: tuple[Who, ...] = get_args(Who)

DATASET, RECIPE = "digits", "quickstart"
TEACHER = "resnet8"
STUDENT = "lgkd.quickstart:small_vit"
FIGURE, RESULTS = "quickstart.png", "results.json"


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
        trials: three for each seed, in the order of the seeds.
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
        """Return the seeds, in the order of the trials."""
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


def _columns(trials: Sequence[Trial]) -> list[tuple[float, ...]]:
    """Return the accuracies of all seeds for each measured point."""
    return list(zip(*([top1 for _, top1 in trial.curve] for trial in trials), strict=True))
