"""Group runs that differ only by seed, and label the groups."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from lgkd._internal.metric_rules import Headline
from lgkd.errors import InputError
from lgkd.runs.compare.find import Finished
from lgkd.runs.equal_length import equal_minutes, without_length
from lgkd.runs.statistics import Interval, Summary, mean_interval, summarise

# Settings of a guide; two runs that differ only in these are a guided student and its baseline.
_OF_A_GUIDE = ("kind", "teacher", "more_teachers", "pairs", "cached", "recipe.guide")
_MOST_FIELDS = 3
_HASH = re.compile(r"[0-9a-f]{64}")
_SHORT_HASH = 12
# Fields that follow from another one, and say nothing more where both differ.
_FOLLOW = {
    "epochs": ("recipe.schedule.steps", "recipe.schedule.epochs"),
    "recipe.schedule.warmup_epochs": ("recipe.schedule.steps",),
}


@dataclass(frozen=True)
class Group:
    """Hold runs that differ only by seed.

    Attributes:
        letter: "A", "B", ...; its short name in tables and plots.
        label: student and teacher, and the settings that distinguish the group from the others.
        runs: at least one, sorted by seed.
    """

    letter: str
    label: str
    runs: tuple[Finished, ...] = field(repr=False)

    @property
    def guided(self) -> bool:
        """Return whether a teacher, or a term that reads the student alone, guides."""
        return _is_guided(self.runs[0])

    @property
    def student(self) -> Any:
        """Return the student's identity: name, options and image size."""
        return self.runs[0].info["student"]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of the runs, in order."""
        return [run.seed for run in self.runs]

    @property
    def units(self) -> str:
        """Return what the runs differ by, in the plural: "seeds", or "folds" of a cross-validation."""
        return "seeds" if self.runs[0].fold is None else "folds"

    @property
    def headline(self) -> Headline:
        """Return the metric that stands for its runs: top-1 accuracy, or mAP of several labels an image."""
        return self.runs[0].headline

    @cached_property
    def top1(self) -> Interval:
        """Return mean `headline` after the last epoch, with its 95 % t-interval over seeds, clipped to 0 and 1."""
        return mean_interval([run.top1 for run in self.runs]).within(0, 1)

    @property
    def sd(self) -> float | None:
        """Return the standard deviation of that metric over the seeds; None for a single one."""
        return summarise([run.top1 for run in self.runs]).sd

    def metric(self, name: str) -> Summary | None:
        """Summarise a metric of the test split after the last epoch; None where a run did not measure it.

        Args:
            name: such as "balanced_accuracy"; see `lgkd.runs.class_results.METRICS`.
        """
        values = [run.metric(name) for run in self.runs]
        known = [value for value in values if value is not None]
        return summarise(known) if len(known) == len(values) else None

    @property
    def unequal(self) -> bool:
        """Return true if the classes of the test split have unequal numbers of images."""
        return any(run.unequal for run in self.runs)

    @property
    def best(self) -> Summary:
        """Summarise the best epochs on the test split: common in papers, but selected on the data it is measured on."""
        return summarise([run.best[0] for run in self.runs])

    @property
    def chosen(self) -> Summary | None:
        """Summarise the epochs that are best on held-out images; None where a run has none."""
        found = [run.chosen for run in self.runs]
        return summarise([one[0] for one in found if one is not None]) if all(found) else None

    def is_baseline_of(self, other: "Group") -> bool:
        """Return whether `other` differs from this one only by its guide; with equal minutes, also by its length."""
        if self.guided or not other.guided:
            return False
        runs = (self.runs[0], other.runs[0])
        equal = equal_minutes(*(run.info for run in runs)) is not None
        mine, theirs = (without_length(run.info, run.identity) if equal else run.identity for run in runs)
        return without_guide(mine) == without_guide(theirs)


def group_runs(runs: Sequence[Finished]) -> list[Group]:
    """Group runs that differ only by seed; unguided ones first, otherwise in the given order.

    Raises:
        InputError: one group has a seed twice: a repeated run is not a second measurement.
    """
    together: dict[str, list[Finished]] = {}
    for run in runs:
        together.setdefault(json.dumps(run.identity, sort_keys=True), []).append(run)
    ordered = [sorted(group, key=lambda run: run.pair) for group in together.values()]
    ordered.sort(key=lambda group: _is_guided(group[0]))
    for group in ordered:
        for before, after in pairwise(group):
            if before.pair == after.pair:
                raise InputError(
                    f"{before.folder} and {after.folder} are the same training with seed {after.seed}; a repeated run "
                    "is not a second measurement, leave one of them out"
                )
    names = _labels([group[0] for group in ordered])
    return [Group(_letter(place), names[place], tuple(group)) for place, group in enumerate(ordered)]


def without_guide(identity: dict[str, Any]) -> dict[str, Any]:
    """Return a run's identity without the settings of its guide."""
    return {
        key: value
        for key, value in identity.items()
        if not any(key == part or key.startswith(f"{part}.") for part in _OF_A_GUIDE)
    }


def _letter(place: int) -> str:
    """Return A to Z, then AA, AB, ..."""
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def _labels(runs: Sequence[Finished]) -> list[str]:
    """Label runs by student and teacher; where that is ambiguous also by recipe or differing fields."""
    names = [_who(run) for run in runs]
    for more in (_recipe, None):
        for name in {name for name in names if names.count(name) > 1}:
            alike = [place for place, other in enumerate(names) if other == name]
            words = _differing([runs[place] for place in alike]) if more is None else [more(runs[at]) for at in alike]
            if len(set(words)) > 1:
                for place, word in zip(alike, words, strict=True):
                    names[place] = f"{name}, {word}"
    return names


def _is_guided(run: Finished) -> bool:
    return run.info["kind"] == "distill" or bool(own_terms(run.identity))


def own_terms(identity: Mapping[str, Any]) -> list[str]:
    """Return the names of the terms of a training without a teacher, in order; empty for one with a teacher."""
    if identity.get("kind") != "train":
        return []
    terms = [key for key in identity if re.fullmatch(r"recipe\.guide\.terms\.\d+\.kind", key)]
    return [str(identity[key.removesuffix("kind") + "name"] or identity[key]) for key in sorted(terms)]


def _who(run: Finished) -> str:
    info = run.info
    teachers = [teacher for teacher in (info.get("teacher"), *(info.get("more_teachers") or ())) if teacher]
    by = "+".join(str(one.get("name") or one.get("class")) for one in teachers)
    name = str(info["student"]["name"]).rpartition(":")[2]
    if info["kind"] == "teacher":
        return f"{name} as a teacher"
    if own := own_terms(run.identity):
        return f"{name} with {', '.join(own)}"
    return f"{name} by {by}" if by else f"{name} unguided"


def _recipe(run: Finished) -> str:
    return str(run.info.get("recipe"))


def _differing(runs: Sequence[Finished]) -> list[str]:
    """Return for each run the fields in which they differ, a few of them."""
    keys = list(dict.fromkeys(key for run in runs for key in run.identity))
    # Settings are more useful than derived values, and a key that all have more than one that only some have.
    keys.sort(key=lambda key: (not key.startswith("recipe."), not all(key in run.identity for run in runs)))
    apart = [key for key in keys if len({json.dumps(run.identity.get(key)) for run in runs}) > 1]
    apart = [key for key in apart if not any(other in apart for other in _FOLLOW.get(key, ()))]
    shown, more = apart[:_MOST_FIELDS], "" if len(apart) <= _MOST_FIELDS else ", ..."
    return [", ".join(f"{_short(key)}={_value(run.identity.get(key))}" for key in shown) + more for run in runs]


def _short(key: str) -> str:
    return key.removeprefix("recipe.")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if _HASH.fullmatch(text):
        return text[:_SHORT_HASH]
    return text if len(text) <= 24 else f"{text[:8]}..."
