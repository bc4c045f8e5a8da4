"""Compare groups of runs with a reference and compute their differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lgkd.errors import InputError
from lgkd.runs.class_results import metrics_of
from lgkd.runs.compare.comparability import (
    check_comparable,
    ended_on_the_way,
    remarks_on,
    remarks_on_pair,
    stopped_on_the_way,
)
from lgkd.runs.compare.find import find_runs
from lgkd.runs.compare.groups import Group, group_runs
from lgkd.runs.early_stop import stopped_early, trained_epochs
from lgkd.runs.equal_length import Equal, count_steps, equal_minutes
from lgkd.runs.statistics import Interval, paired_interval, unpaired_interval


@dataclass(frozen=True)
class Difference:
    """Represent the difference of two groups in top-1 accuracy after the last epoch.

    Attributes:
        reference: the group to compare with, such as the unguided students.
        group: the compared group.
    """

    reference: Group
    group: Group

    @property
    def paired(self) -> bool:
        """Return whether both have the same seeds, so that effects common to a pair cancel."""
        return [run.pair for run in self.reference.runs] == [run.pair for run in self.group.runs]

    @cached_property
    def interval(self) -> Interval:
        """Return `group` minus `reference`, -1 to 1, with its 95 % t-interval: paired, or Welch's."""
        return self._interval([run.top1 for run in self.reference.runs], [run.top1 for run in self.group.runs])

    def interval_of(self, metric: str) -> Interval | None:
        """Return the difference of another metric, as `interval`; None where a run did not measure it.

        Args:
            metric: such as "balanced_accuracy"; see `lgkd.runs.class_results.METRICS`.
        """
        before, after = ([run.metric(metric) for run in group.runs] for group in (self.reference, self.group))
        known = [[value for value in values if value is not None] for values in (before, after)]
        return None if None in (*before, *after) else self._interval(*known)

    def _interval(self, before: Sequence[float], after: Sequence[float]) -> Interval:
        return (paired_interval if self.paired else unpaired_interval)(before, after)

    @property
    def by_seed(self) -> list[tuple[int, float]]:
        """Return each seed with the difference of its pair; empty where they are not paired."""
        if not self.paired:
            return []
        pairs = zip(self.reference.runs, self.group.runs, strict=True)
        return [(after.seed, after.top1 - before.top1) for before, after in pairs]

    @property
    def unequal(self) -> bool:
        """Return true if the classes of the test split have unequal numbers of images."""
        return self.reference.unequal or self.group.unequal

    @property
    def equal(self) -> Equal | None:
        """Return what a guided training and its baseline have in common: "steps", "minutes", or neither.

        Both have equal minutes if the steps of each were fitted to one time, as run.json stores it.
        """
        if self.reference.guided or not self.group.guided or None in self.steps:
            return None
        if any(stopped_early(run.info) for group in (self.reference, self.group) for run in group.runs):
            return None  # each was trained for as long as it improved
        if equal_minutes(self.reference.runs[0].info, self.group.runs[0].info) is not None:
            return "minutes"
        return "steps" if len(set(self.steps)) == 1 else None

    @property
    def steps(self) -> tuple[int | None, int | None]:
        """Return the optimiser steps of the reference and of the group; None where they are not known."""
        first, second = (
            count_steps(group.runs[0].info, group.runs[0].identity) for group in (self.reference, self.group)
        )
        return first, second


@dataclass(frozen=True)
class Comparison:
    """Hold groups of runs and their differences.

    Attributes:
        groups: of runs that differ only by seed.
        differences: every guided group against its unguided one; where there are none, every group against the
            first, or against the requested one.
        remarks: sentences on differences other than the compared one.
    """

    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, as `lgkd compare --json` shows it; accuracies from 0 to 1."""
        return {
            "format": 1,
            "measured": f"{self.groups[0].headline.name} on the test split after the last epoch",
            "groups": [_about_group(group) for group in self.groups],
            "differences": [_about_difference(difference) for difference in self.differences],
            "remarks": list(self.remarks),
        }


def compare(
    *runs: str | Path, against: str | Path | None = None, say: Callable[[str], None] | None = None
) -> Comparison:
    """Compare finished runs; runs that differ only by seed are summarised as mean, spread and interval.

    Args:
        runs: folders of runs, or folders that hold several, such as those of `--seeds`.
        against: a run, or a folder of some, with whose group all others are compared; by default guided students are
            compared with the unguided one, and where there is none with the first named run.
        say: called with a message for each unfinished run that is skipped.

    Returns:
        Groups, differences, and remarks on other differences.

    Raises:
        InputError: a folder is not a finished run, a run is repeated, or runs were measured on different images.
    """
    groups = group_runs(find_runs([*runs, *([against] if against is not None else [])], say))
    check_comparable(groups)
    pairs = _against_one(groups, Path(against)) if against is not None else _pairs(groups)
    differences = tuple(Difference(reference, group) for reference, group in pairs)
    remarks = [
        *remarks_on(groups),
        *ended_on_the_way(groups),
        *stopped_on_the_way(groups),
        *(remark for pair in pairs for remark in remarks_on_pair(*pair)),
    ]
    return Comparison(tuple(groups), differences, tuple(remarks))


def _against_one(groups: Sequence[Group], place: Path) -> list[tuple[Group, Group]]:
    wanted = {run.folder.resolve() for run in find_runs([place])}
    of_it = [group for group in groups if wanted & {run.folder.resolve() for run in group.runs}]
    if len(of_it) != 1:
        names = ", ".join(group.label for group in of_it)
        raise InputError(f"--against {place} holds {len(of_it)} kinds of runs ({names}); name one run to compare with")
    return [(of_it[0], group) for group in groups if group is not of_it[0]]


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Pair each guided group with its baseline; failing that, the first with each other."""
    found = [(baseline, group) for group in groups if (baseline := _baseline_of(group, groups)) is not None]
    return found or [(groups[0], group) for group in groups[1:]]


def _baseline_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """Find the unguided group that differs only by the guide; failing that, one of the same student."""
    if not group.guided:
        return None
    alone = [other for other in groups if not other.guided and other.student == group.student]
    return next((other for other in alone if other.is_baseline_of(group)), alone[0] if alone else None)


def _about_interval(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "confidence": interval.confidence}


def _about_group(group: Group) -> dict[str, Any]:
    info = group.runs[0].info
    return {
        "group": group.letter,
        "label": group.label,
        "seeds": group.seeds,
        "is_a_result": len(group.runs) > 1,
        group.headline.key: {**_about_interval(group.top1), "sd": group.sd},
        "unequal_classes": group.unequal,
        **{
            name: None if (found := group.metric(name)) is None else {"mean": found.mean, "sd": found.sd}
            for name in metrics_of(group.headline)
        },
        "chosen_on_held_out_images": None if group.chosen is None else group.chosen.mean,
        "best_epoch_on_the_test_split": {"mean": group.best.mean, "sd": group.best.sd},
        "dataset": info["dataset"]["name"],
        "epochs": info["epochs"],
        "recipe": info.get("recipe"),
        "runs": [
            {
                "folder": str(run.folder),
                "seed": run.seed,
                "epochs": trained_epochs(run.info),
                group.headline.key: run.top1,
                **{name: run.metric(name) for name in metrics_of(group.headline)},
                "chosen_on_held_out_images": None if run.chosen is None else run.chosen[0],
                "best_epoch_on_the_test_split": {group.headline.key: run.best[0], "epoch": run.best[1]},
                "training_seconds": run.info["results"]["training_seconds"],
            }
            for run in group.runs
        ],
    }


def _about_difference(difference: Difference) -> dict[str, Any]:
    return {
        "group": difference.group.letter,
        "against": difference.reference.letter,
        "paired_by_seed": difference.paired,
        "equal": difference.equal,
        "steps": dict(zip((difference.reference.letter, difference.group.letter), difference.steps, strict=True)),
        **_about_interval(difference.interval),
        "includes_zero": difference.interval.includes_zero,
        "is_a_result": difference.interval.low is not None,
        **{
            name: None if (found := difference.interval_of(name)) is None else _about_interval(found)
            for name in metrics_of(difference.group.headline)
        },
        "by_seed": [{"seed": seed, "difference": value} for seed, value in difference.by_seed],
    }
