"""Measure runs under corruptions: mean accuracy, relative drop, mCE, and differences between groups of runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lgkd._internal.metric_rules import are_unequal
from lgkd.analysis.inspect.corruptions import STRENGTHS, corrupt
from lgkd.analysis.robustness.measures import (
    Accuracies,
    accuracies,
    corruption_errors,
    equal_weights,
    percentile_interval,
    relative_corruption_errors,
    resampled_weights,
)
from lgkd.analysis.robustness.request import check_request
from lgkd.data.dataset import DataSet, Images
from lgkd.runner.loaded_run import Opened, check_finite, open_run
from lgkd.runs.compare import Comparison, Difference, compare
from lgkd.runs.compare.groups import Group
from lgkd.runs.statistics import Interval, Summary, paired_interval, summarise, unpaired_interval
from lgkd.training.evaluate import answer

KINDS = tuple(STRENGTHS)
DIFFERENCES = ("clean", "corrupted", "relative_drop")
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Effect:
    """Hold a quantity of a group against its reference.

    Attributes:
        over_images: the value, with its bootstrap interval over test images; the trained students are fixed.
        over_seeds: the same value, with its t-interval over trainings, paired by seed or Welch's; None where the value
            is not a difference of two groups.
    """

    over_images: Interval
    over_seeds: Interval | None = None


@dataclass(frozen=True)
class Level:
    """Hold one run under one metric, 0 to 1.

    Attributes:
        clean: on the original images.
        by_kind: for each corruption the accuracies at severities 1 to 5.
        corrupted: mean over corruptions and severities.
        relative_drop: (clean - corrupted) / clean; None for a clean accuracy of 0.
        mce, relative_mce: relative to the mean errors of the reference group; None without one, or where undefined.
    """

    clean: float
    by_kind: Mapping[str, Sequence[float]]
    corrupted: float
    relative_drop: float | None
    mce: float | None = None
    relative_mce: float | None = None


@dataclass(frozen=True)
class Robustness:
    """Hold the robustness of runs.

    Attributes:
        comparison: the groups of runs that differ only by seed, and which are compared.
        images: number of test images that were measured on.
        scored: these images, as text.
        levels: for each metric ("top1", for unequal classes also "balanced_accuracy"), for each group by its letter the
            runs in order.
        effects: for each metric, for each difference of the comparison in order: "clean", "corrupted" and
            "relative_drop" are differences, "mce" and "relative_mce" ratios, and of every kind of corruption
            "corrupted KIND" a difference and "ce KIND" a ratio.
        remarks: sentences for the user.
    """

    comparison: Comparison
    images: int
    scored: str
    levels: Mapping[str, Mapping[str, Sequence[Level]]]
    effects: Mapping[str, Sequence[Mapping[str, Effect]]]
    remarks: tuple[str, ...]

    def summary(self, metric: str, group: Group, quantity: str) -> Summary | None:
        """Summarise an attribute of `Level` over a group's runs; None where a run lacks it."""
        values = [getattr(level, quantity) for level in self.levels[metric][group.letter]]
        return None if None in values else summarise(values)


def measure_robustness(
    *runs: str | Path,
    against: str | Path | None = None,
    most: int | None = None,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Robustness:
    """Measure finished runs under the corruptions of `lgkd.inspect_run`, on the same corrupted images.

    Args:
        runs: folders of runs, or folders that hold several, such as those of `--seeds`.
        against: as of `lgkd.compare`: by default guided students are compared with the unguided one.
        most: number of test images, evenly spread over the split; all by default.
        dataset, data_dir, device: as for `lgkd.evaluate`.
        say: called with each message for the user.

    Raises:
        InputError: a folder is not a finished run, runs are of several labels an image or of folds, or were measured on
            different images.
        MissingError: the data set is missing.
    """
    notify = say or (lambda _: None)
    comparison = compare(*runs, against=against, say=say)
    check_request(comparison, most)
    folders = [run.folder for group in comparison.groups for run in group.runs]
    opened = [open_run(folders[0], dataset=dataset, data_dir=data_dir, device=device)]
    data = opened[0].data
    same = DataSet(data.key, data.classes, data.train, data.test, data.fingerprint, ())
    opened += [open_run(folder, dataset=same, device=device) for folder in folders[1:]]
    # Whole, the split may be mapped from a file, of which only the chosen images are read.
    places = _spread(len(data.test), len(data.test) if most is None else most)
    notify(f"measured on {opened[0].scored}" + ("" if len(places) == len(data.test) else f", {len(places):,} of them"))
    right_RKN = classify_corrupted(opened, data.test, places, notify)
    labels_N = data.test.labels[places]
    metrics = ["top1"]
    if are_unequal(torch.bincount(labels_N).tolist()):
        metrics.append("balanced_accuracy")
    levels, effects = {}, {}
    for metric in metrics:
        levels[metric], effects[metric] = summarise_answers(comparison, right_RKN, labels_N, metric)
    undefined = [
        f"{metric} of {one.group.letter}: the relative mCE is not defined, as {one.reference.letter} loses nothing "
        "under a corruption"
        for metric in metrics
        for one, effect in zip(comparison.differences, effects[metric], strict=True)
        if not is_number(effect["relative_mce"].over_images.mean)
    ]
    remarks = (*comparison.remarks, *undefined)
    return Robustness(comparison, len(places), opened[0].scored, levels, effects, remarks)


def classify_corrupted(
    runs: Sequence[Opened], images: Images, places_N: Tensor, notify: Callable[[str], None]
) -> Tensor:
    """Classify images as they are and under every corruption; every image is corrupted once, for all runs.

    Returns:
        bool (R,1+C*V,N), in the order of `accuracies`.
    """
    height, width = images.pixels.shape[2:]
    chunks = torch.split(places_N, max(32, _CHUNK_BYTES // (12 * height * width)))
    conditions: list[tuple[str, int]] = [(kind, severity) for kind in KINDS for severity in range(1, 6)]
    right = torch.zeros(len(runs), 1 + len(conditions), len(places_N), dtype=torch.bool)
    first = 0
    for chunk in chunks:
        part = images.take(chunk)
        for column, condition in enumerate([None, *conditions]):
            shown = part if condition is None else corrupt(part, *condition)
            for row, one in enumerate(runs):
                right[row, column, first : first + len(chunk)] = _right(one, shown)
        first += len(chunk)
        notify(f"classified {first:,} of {len(places_N):,} images under {len(conditions)} conditions")
    return right


def _right(opened: Opened, images: Images) -> Tensor:
    said = answer(
        opened.student,
        opened.batches(images),
        precision=opened.precision,
        channels_last=opened.channels_last,
        auroc=False,
    )
    check_finite(opened, float(said.chances.sum()))
    return said.right


def summarise_answers(
    comparison: Comparison, right_RKN: Tensor, labels_N: Tensor, metric: str
) -> tuple[dict[str, list[Level]], list[dict[str, Effect]]]:
    """Summarise correct answers: the levels of every run, and the effects of every difference.

    Args:
        comparison: of the runs.
        right_RKN: as of `accuracies`; runs in the order of the groups.
        labels_N: the classes of the images.
        metric: "top1" or "balanced_accuracy".
    """
    balanced = metric == "balanced_accuracy"
    found = accuracies(right_RKN, equal_weights(labels_N, balanced=balanced), len(KINDS))
    rows: dict[str, list[int]] = {}
    for group in comparison.groups:
        begin = sum(len(one) for one in rows.values())
        rows[group.letter] = list(range(begin, begin + len(group.runs)))
    references = {one.group.letter: one.reference.letter for one in comparison.differences}
    levels = {
        letter: [
            _level(_of_runs(found, [row]), _of_runs(found, rows[references[letter]]) if letter in references else None)
            for row in places
        ]
        for letter, places in rows.items()
    }
    pairs = [(one, rows[one.group.letter], rows[one.reference.letter]) for one in comparison.differences]
    drawn: list[list[dict[str, Tensor]]] = [[] for _ in pairs]
    if pairs:
        for weights_SN in resampled_weights(labels_N, balanced=balanced):
            some = accuracies(right_RKN, weights_SN, len(KINDS))
            for place, (_, own, theirs) in enumerate(pairs):
                drawn[place].append(_values(_of_runs(some, own), _of_runs(some, theirs)))
    effects = []
    for (difference, own, theirs), parts in zip(pairs, drawn, strict=True):
        values = _values(_of_runs(found, own), _of_runs(found, theirs))
        effects.append(
            {
                name: Effect(
                    percentile_interval(float(value), torch.cat([part[name] for part in parts]), len(labels_N)),
                    _over_seeds(difference, name, levels),
                )
                for name, value in values.items()
            }
        )
    return levels, effects


def _of_runs(found: Accuracies, rows: list[int]) -> Accuracies:
    return Accuracies(found.clean[:, rows], found.corrupted[:, rows])


def _values(own: Accuracies, reference: Accuracies) -> dict[str, Tensor]:
    """Compute every quantity of a group against its reference, means over runs: (S) each."""
    theirs = reference.over_runs()
    kinds = corruption_errors(own, theirs).mean(dim=1)
    by_kind = (own.corrupted.mean(dim=(1, 3)), reference.corrupted.mean(dim=(1, 3)))
    return {
        "clean": own.clean.mean(dim=1) - reference.clean.mean(dim=1),
        "corrupted": own.mean_corrupted.mean(dim=1) - reference.mean_corrupted.mean(dim=1),
        "relative_drop": own.relative_drop.mean(dim=1) - reference.relative_drop.mean(dim=1),
        "mce": kinds.mean(dim=1),
        "relative_mce": relative_corruption_errors(own, theirs).mean(dim=(1, 2)),
        **{f"corrupted {kind}": (by_kind[0] - by_kind[1])[:, place] for place, kind in enumerate(KINDS)},
        **{f"ce {kind}": kinds[:, place] for place, kind in enumerate(KINDS)},
    }


def _level(own: Accuracies, reference: Accuracies | None) -> Level:
    """Describe one run, of accuracies of one resample and one run."""
    mce = relative = None
    if reference is not None:
        theirs = reference.over_runs()
        mce = _number(corruption_errors(own, theirs).mean())
        relative = _number(relative_corruption_errors(own, theirs).mean())
    by_kind: dict[str, Sequence[float]] = dict(zip(KINDS, own.corrupted[0, 0].tolist(), strict=True))
    drop = _number(own.relative_drop)
    return Level(float(own.clean), by_kind, float(own.mean_corrupted), drop, mce, relative)


def _over_seeds(difference: Difference, name: str, levels: Mapping[str, Sequence[Level]]) -> Interval | None:
    if name not in DIFFERENCES:
        return None
    before, after = (
        [getattr(level, name) for level in levels[group.letter]] for group in (difference.reference, difference.group)
    )
    if None in (*before, *after):
        return None
    return (paired_interval if difference.paired else unpaired_interval)(before, after)


def _number(value: Tensor) -> float | None:
    return float(value) if is_number(float(value)) else None


def is_number(value: float) -> bool:
    """Return false for NaN."""
    return value == value


def _spread(count: int, most: int) -> Tensor:
    """Return at most `most` evenly spread indices."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()
