"""What has come of an experiment so far: for every arm its finished runs, and how far it is ahead. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lgkd.errors import InputError
from lgkd.experiments.layout import ABOUT, finished, read_about, run_of
from lgkd.experiments.select import Turn
from lgkd.experiments.spec import Arm, Experiment
from lgkd.runs.compare.find import Finished, find_runs
from lgkd.runs.folder import ENV, read_metrics
from lgkd.runs.statistics import Interval, Summary, paired_interval, summarise


@dataclass(frozen=True)
class Row:
    """One arm, measured.

    Attributes:
        arm: which.
        runs: its finished runs by seed; none where it was not run.
        reference: those of the arm that it is compared with.
        commits: of the code that made its runs.
        on_the_way: percent of the test split by epoch for each seed, of runs that are still going on, too.
    """

    arm: Arm
    runs: tuple[Finished, ...] = ()
    reference: tuple[Finished, ...] = field(default=(), repr=False)
    commits: tuple[str, ...] = ()
    on_the_way: Mapping[int, Mapping[int, float]] = field(default_factory=dict, repr=False)

    @property
    def seeds(self) -> list[int]:
        """Of the finished runs."""
        return [run.seed for run in self.runs]

    @property
    def top1(self) -> Summary | None:
        """Test accuracy after the last epoch, 0 to 1."""
        return summarise([run.top1 for run in self.runs]) if self.runs else None

    @property
    def best(self) -> Summary | None:
        """Test accuracy of the best epoch on the test split: picked by what it is measured on."""
        return summarise([run.best[0] for run in self.runs]) if self.runs else None

    @property
    def balanced(self) -> Summary | None:
        """Balanced accuracy on the test split after the last epoch; None where not all of its runs measured it."""
        values = [run.rows[-1].get("test_balanced_accuracy") for run in self.runs]
        known = [value for value in values if value is not None]
        return summarise(known) if known and len(known) == len(values) else None

    @property
    def by_seed(self) -> list[tuple[int, float]]:
        """Each seed that the arm has in common with its reference, and by how much it is ahead there."""
        theirs = {run.seed: run.top1 for run in self.reference}
        return [(run.seed, run.top1 - theirs[run.seed]) for run in self.runs if run.seed in theirs]

    @cached_property
    def gain(self) -> Interval | None:
        """How far it is ahead, paired by seed, with its 95 % t-interval; None where there are no pairs."""
        gains = [gain for _, gain in self.by_seed]
        return paired_interval([0.0] * len(gains), gains) if gains else None

    @property
    def seconds(self) -> float | None:
        """What a run took in the mean: training and evaluation."""
        if not self.runs:
            return None
        results = [run.info["results"] for run in self.runs]
        return summarise([one["training_seconds"] + one.get("evaluation_seconds", 0) for one in results]).mean

    @property
    def teacher(self) -> str | None:
        """Who guided, with its accuracy where its card says it."""
        told = {_teacher(run.info.get("teacher")) for run in self.runs} - {None}
        return "; ".join(sorted(filter(None, told))) or None

    @property
    def devices(self) -> str:
        """What its runs were made on, and in which precision."""
        return "; ".join(dict.fromkeys(_device(run) for run in self.runs))

    def as_dict(self) -> dict[str, Any]:
        """Everything measured in plain numbers and words, and what is quoted apart from it."""
        top1, best, gain, balanced = self.top1, self.best, self.gain, self.balanced
        return {
            "arm": self.arm.key,
            "label": self.arm.label,
            "seeds": self.seeds,
            "measured": None
            if top1 is None or best is None
            else {
                "last_epoch": {"mean": top1.mean, "sd": top1.sd},
                "best_epoch_on_the_test_split": {"mean": best.mean, "sd": best.sd},
                "balanced_accuracy": None if balanced is None else {"mean": balanced.mean, "sd": balanced.sd},
                "gain": None
                if gain is None
                else {
                    "against": self.arm.against,
                    "mean": gain.mean,
                    "low": gain.low,
                    "high": gain.high,
                    "confidence": gain.confidence,
                    "by_seed": [{"seed": seed, "difference": value} for seed, value in self.by_seed],
                },
                "teacher": self.teacher,
                "seconds": self.seconds,
                "device": self.devices,
                "commits": list(self.commits),
                "runs": [{"folder": str(run.folder), "seed": run.seed, "top1": run.top1} for run in self.runs],
            },
            "quoted": [{"top1": one.top1 / 100, "what": one.what, "source": one.source} for one in self.arm.quoted],
        }


@dataclass(frozen=True)
class Outcome:
    """An experiment with what has come of it.

    Attributes:
        experiment: which.
        folder: where it lies.
        rows: one an arm, in its order.
    """

    experiment: Experiment
    folder: Path
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """As `lgkd reproduce NAME --json` shows it; accuracies from 0 to 1."""
        return {
            "format": 1,
            "experiment": self.experiment.name,
            "folder": str(self.folder),
            "measured": "top-1 accuracy on the test split",
            "arms": [row.as_dict() for row in self.rows],
        }


def look_at(experiment: Experiment, out: Path) -> Outcome:
    """Every finished run that lies in an experiment's folder, whatever seeds were asked for: none is left out.

    Raises:
        InputError: a run is damaged, or some were measured on other images than the rest.
    """
    commits = read_about(out)["commits"] if (out / ABOUT).is_file() else {}
    runs = {arm.key: _finished_runs(out, arm) for arm in experiment.arms}
    _check_images([run for of_arm in runs.values() for run in of_arm])
    rows = []
    for arm in experiment.arms:
        mine = runs[arm.key]
        made_with = [commit for run in mine for commit in commits.get(f"{arm.key}/seed{run.seed}", ())]
        rows.append(
            Row(
                arm,
                mine,
                runs[arm.against] if arm.against is not None else (),
                tuple(dict.fromkeys(made_with)),
                _on_the_way(out, arm) if arm.early else {},
            )
        )
    return Outcome(experiment, out, tuple(rows))


def _seeds_of(out: Path, arm: Arm) -> list[int]:
    names = [path.name.removeprefix("seed") for path in (out / arm.key).glob("seed*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _finished_runs(out: Path, arm: Arm) -> tuple[Finished, ...]:
    turns = [Turn(arm, seed) for seed in _seeds_of(out, arm)]
    return tuple(find_runs([run_of(out, turn)])[0] for turn in turns if finished(out, turn))


def _on_the_way(out: Path, arm: Arm) -> dict[int, dict[int, float]]:
    found = {}
    for seed in _seeds_of(out, arm):
        rows = read_metrics(run_of(out, Turn(arm, seed)))
        found[seed] = {int(row["epoch"]): 100 * row["test_top1"] for row in rows if "test_top1" in row}
    return found


def _check_images(runs: Sequence[Finished]) -> None:
    """An experiment's arms see parts of the same images; runs on others cannot stand in one table."""
    apart: dict[str, str] = {}
    for run in runs:
        apart.setdefault(str(run.info["dataset"].get("fingerprint")), str(run.folder))
    if len(apart) > 1:
        one, other = list(apart.values())[:2]
        raise InputError(
            f"{one} and {other} were measured on different images, so their accuracies cannot be compared; use another "
            "--out for other images"
        )


def _teacher(about: Any) -> str | None:
    if not isinstance(about, dict):
        return None
    name = str(about.get("kept_as") or about.get("name") or about.get("class"))
    top1 = about.get("test_top1")
    return f"{name}, {top1:.1%}" if isinstance(top1, int | float) else name


def _device(run: Finished) -> str:
    try:
        env = json.loads((run.folder / ENV).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        env = {}
    env = env if isinstance(env, dict) else {}
    processes = run.info.get("processes", 1)
    if env.get("gpu"):
        words = str(env["gpu"])
    else:
        threads = env.get("threads")
        words = f"{env.get('processor') or 'CPU'}, {threads} thread{'s' * (threads != 1)}"
    shared = f", {processes} processes" if processes != 1 else ""
    return f"{' '.join(words.split())}{shared}, {run.info['precision']}"
