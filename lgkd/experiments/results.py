"""Collect an experiment's results so far: for every arm its finished runs and its gain. No torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lgkd.errors import InputError
from lgkd.experiments.layout import ABOUT, finished, read_about, run_of
from lgkd.experiments.select import Turn, dataset_of
from lgkd.experiments.spec import Arm, Experiment
from lgkd.runs.compare.find import Finished, find_runs
from lgkd.runs.folder import ENV, read_metrics
from lgkd.runs.statistics import Interval, Summary, paired_interval, summarise


@dataclass(frozen=True)
class Row:
    """Represent one measured arm.

    Attributes:
        arm: its definition.
        runs: its finished runs by seed; empty where it was not run.
        reference: runs of the arm that it is compared with.
        commits: of the code that made its runs.
        on_the_way: percent of the test split by epoch for each seed, including unfinished runs.
    """

    arm: Arm
    runs: tuple[Finished, ...] = ()
    reference: tuple[Finished, ...] = field(default=(), repr=False)
    commits: tuple[str, ...] = ()
    on_the_way: Mapping[int, Mapping[int, float]] = field(default_factory=dict, repr=False)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of the finished runs."""
        return [run.seed for run in self.runs]

    @property
    def top1(self) -> Summary | None:
        """Return test accuracy after the last epoch, 0 to 1."""
        return summarise([run.top1 for run in self.runs]) if self.runs else None

    @property
    def best(self) -> Summary | None:
        """Return test accuracy of the best epoch on the test split, an optimistic selection."""
        return summarise([run.best[0] for run in self.runs]) if self.runs else None

    @property
    def balanced(self) -> Summary | None:
        """Return balanced accuracy on the test split after the last epoch; None if any run lacks it."""
        values = [_balanced(run) for run in self.runs]
        known = [value for value in values if value is not None]
        return summarise(known) if known and len(known) == len(values) else None

    @property
    def by_seed(self) -> list[tuple[int, float]]:
        """Return the gain over the reference for each data set and seed that both have."""
        return [(run.seed, run.top1 - other.top1) for run, other in self._pairs()]

    @cached_property
    def gain(self) -> Interval | None:
        """Return the gain over the reference, paired by seed, with its 95 % t-interval; None without pairs."""
        gains = [gain for _, gain in self.by_seed]
        return paired_interval([0.0] * len(gains), gains) if gains else None

    @property
    def balanced_gain(self) -> Interval | None:
        """Return the gain in balanced accuracy over the reference, as `gain`; None without measured pairs."""
        pairs = [(_balanced(run), _balanced(other)) for run, other in self._pairs()]
        gains = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        return paired_interval([0.0] * len(gains), gains) if gains else None

    def _pairs(self) -> list[tuple[Finished, Finished]]:
        theirs = {(run.info["dataset"].get("name"), run.seed): run for run in self.reference}
        keys = [((run.info["dataset"].get("name"), run.seed), run) for run in self.runs]
        return [(run, theirs[key]) for key, run in keys if key in theirs]

    @property
    def seconds(self) -> float | None:
        """Return a run's mean duration: training and evaluation."""
        if not self.runs:
            return None
        results = [run.info["results"] for run in self.runs]
        return summarise([one["training_seconds"] + one.get("evaluation_seconds", 0) for one in results]).mean

    @property
    def processor_seconds(self) -> float | None:
        """Return the mean processor time of a run, training and evaluation; None if any run lacks it."""
        known = [run.info["results"].get("processor_seconds") for run in self.runs]
        return summarise(known).mean if known and None not in known else None

    @property
    def teacher(self) -> str | None:
        """Return the teacher, with its accuracy where its card has it."""
        teachers = {_teacher(run.info.get("teacher")) for run in self.runs} - {None}
        return "; ".join(sorted(filter(None, teachers))) or None

    @property
    def devices(self) -> str:
        """Return the devices of its runs, and their precision."""
        return "; ".join(dict.fromkeys(_device(run) for run in self.runs))

    def as_dict(self) -> dict[str, Any]:
        """Return all measurements in plain numbers and words, and the quoted figures separately."""
        top1, best, gain, balanced = self.top1, self.best, self.gain, self.balanced
        balanced_gain = self.balanced_gain
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
                    "balanced_accuracy": None
                    if balanced_gain is None
                    else {"mean": balanced_gain.mean, "low": balanced_gain.low, "high": balanced_gain.high},
                    "by_seed": [{"seed": seed, "difference": value} for seed, value in self.by_seed],
                },
                "teacher": self.teacher,
                "seconds": self.seconds,
                "processor_seconds": self.processor_seconds,
                "device": self.devices,
                "commits": list(self.commits),
                "runs": [{"folder": str(run.folder), "seed": run.seed, "top1": run.top1} for run in self.runs],
            },
            "quoted": [{"top1": one.top1 / 100, "what": one.what, "source": one.source} for one in self.arm.quoted],
        }


@dataclass(frozen=True)
class Outcome:
    """Hold an experiment and its results.

    Attributes:
        experiment: its definition.
        folder: its folder.
        rows: one an arm, in its order.
        pools: one for all arms of a pool that has finished runs of two arms or more.
    """

    experiment: Experiment
    folder: Path
    rows: tuple[Row, ...]
    pools: tuple[Row, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `lgkd reproduce NAME --json`; accuracies from 0 to 1."""
        return {
            "format": 1,
            "experiment": self.experiment.name,
            "folder": str(self.folder),
            "measured": "top-1 accuracy on the test split",
            "arms": [row.as_dict() for row in self.rows],
            "pools": [row.as_dict() for row in self.pools],
        }


def look_at(experiment: Experiment, out: Path) -> Outcome:
    """Collect every finished run in an experiment's folder, regardless of the requested seeds: none is omitted.

    Raises:
        InputError: a run is damaged, or some were measured on other images than the rest.
    """
    commits = read_about(out)["commits"] if (out / ABOUT).is_file() else {}
    runs = {arm.key: _finished_runs(out, arm) for arm in experiment.arms}
    for name in {dataset_of(experiment, arm) for arm in experiment.arms}:
        _check_images([run for arm in experiment.arms if dataset_of(experiment, arm) == name for run in runs[arm.key]])
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
    return Outcome(experiment, out, tuple(rows), tuple(_pools(rows)))


def _pools(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row of the runs of all arms of each pool."""
    labels = {row.arm.key: row.arm.pool for row in rows}
    for pool in dict.fromkeys(row.arm.pool for row in rows if row.arm.pool is not None):
        mine = [row for row in rows if row.arm.pool == pool and row.runs]
        if len(mine) > 1:
            against = labels.get(mine[0].arm.against or "")
            yield Row(
                replace(mine[0].arm, key=pool, label=pool, against=against, quoted=(), early=None),
                tuple(run for row in mine for run in row.runs),
                tuple(run for row in mine for run in row.reference),
                tuple(dict.fromkeys(commit for row in mine for commit in row.commits)),
            )


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
    """Refuse runs on different images, which cannot be in one table."""
    apart: dict[str, str] = {}
    for run in runs:
        apart.setdefault(str(run.info["dataset"].get("fingerprint")), str(run.folder))
    if len(apart) > 1:
        one, other = list(apart.values())[:2]
        raise InputError(
            f"{one} and {other} were measured on different images, so their accuracies cannot be compared; use another "
            "--out for other images"
        )


def _balanced(run: Finished) -> float | None:
    return run.rows[-1].get("test_balanced_accuracy")


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
