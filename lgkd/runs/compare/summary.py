"""Summarise a comparison in sentences that claim no more than the numbers do."""

from collections.abc import Sequence

from lgkd._internal.text import counted
from lgkd.runs.compare.comparison import Comparison, Difference
from lgkd.runs.compare.groups import Group
from lgkd.runs.equal_length import equal_minutes
from lgkd.runs.statistics import Interval, in_percent


def summary_lines(comparison: Comparison) -> list[str]:
    """Describe the differences, how to read them, and what else differs."""
    lines: list[str] = []
    for difference in comparison.differences:
        lines += difference_lines(difference)
    if len(comparison.differences) > 1:
        lines.append(
            f"{len(comparison.differences)} differences are shown, each with its own 95% interval: that all of them "
            "hold at once is less certain."
        )
    single = [group.letter for group in comparison.groups if len(group.runs) == 1]
    if single and not comparison.differences:
        lines.append(f"One seed is not a result ({', '.join(single)}): train with --seeds 0,1,2 for a spread.")
    if any(group.units == "folds" and len(group.runs) > 1 for group in comparison.groups):
        lines.append(
            "Folds share most of their training images, so that their results are not independent: the intervals are "
            "narrower than those of other images would be."
        )
    return lines


def difference_lines(difference: Difference) -> list[str]:
    """Describe one difference: its size, its interval, and whether it was paired."""
    reference, group = difference.reference, difference.group
    lines = gain_lines(
        f"{group.letter} - {reference.letter}",
        difference.interval,
        [gain for _, gain in difference.by_seed],
        units=group.units,
        unpaired="" if difference.paired else _seeds_of(reference, group),
    )
    if not difference.paired:
        lines.append(
            f"Not paired, since the seeds differ ({_seeds_of(reference, group)}): effects that runs of one seed share "
            "do not cancel."
        )
    if (balanced := balanced_line(difference)) is not None:
        lines.append(balanced)
    if (equal := equal_line(difference)) is not None:
        lines.append(equal)
    return lines


def balanced_line(difference: Difference) -> str | None:
    """Describe the difference in balanced accuracy, in which every class counts alike; None for equal classes."""
    gain = difference.interval_of("balanced_accuracy") if difference.unequal else None
    if gain is None:
        return None
    what = (
        f"The classes are of unequal size. In balanced accuracy the difference is {in_percent(gain.mean, signed=True)}"
    )
    if gain.low is None or gain.high is None:
        return f"{what} points, with one {difference.group.units.removesuffix('s')}."
    low, high = (in_percent(end, signed=True) for end in (gain.low, gain.high))
    zero = "includes 0" if gain.includes_zero else "does not include 0"
    return f"{what} points, {gain.confidence:.0%} t-interval {low} to {high}, which {zero}."


def equal_line(difference: Difference) -> str | None:
    """State whether a guided training and its baseline have equal steps or equal minutes; None where neither holds."""
    reference, group = difference.reference, difference.group
    first, second = (0 if steps is None else steps for steps in difference.steps)
    if difference.equal == "steps":
        return f"Equal steps: {reference.letter} and {group.letter} were trained for {counted(first, 'step')} each."
    if difference.equal == "minutes":
        seconds = equal_minutes(reference.runs[0].info, group.runs[0].info)
        return (
            f"Equal minutes: {reference.letter} and {group.letter} were each trained for the steps that fit in "
            f"{seconds:g} s ({reference.letter} {first:,}, {group.letter} {second:,})."
        )
    return None


def gain_lines(
    what: str, gain: Interval, by_seed: Sequence[float], *, units: str = "seeds", unpaired: str = ""
) -> list[str]:
    """Describe a difference of accuracies in sentences.

    Args:
        what: the name of the difference, such as "gain of the guide".
        gain: the difference, -1 to 1.
        by_seed: that of each pair; empty where they are not paired.
        units: what the pairs differ by, "seeds" or "folds".
        unpaired: the seeds of each group, where they are not paired.
    """
    points, seeds, unit = in_percent(gain.mean, signed=True), len(by_seed) or gain.count, units.removesuffix("s")
    if gain.low is None or gain.high is None:
        if not unpaired:
            return [f"{what}: {points} points with one {unit}, which gives no interval and is not a result."]
        return [f"{what}: {points} points. One {unit} gives no interval, so this is not a result."]
    low, high = (in_percent(end, signed=True) for end in (gain.low, gain.high))
    interval = f"{gain.confidence:.0%} t-interval {low} to {high}"
    if unpaired:
        lines = [f"{what}: {points} points, {interval} (Welch's), not paired."]
    else:
        each = ", ".join(in_percent(one, signed=True) for one in by_seed)
        lines = [f"{what}: {points} points, {interval}, paired over {seeds} {units} ({each})."]
    if gain.low == gain.high:
        lines.append(f"All {units} gave the same, so the interval has no width and says nothing about other {units}.")
    elif gain.includes_zero:
        lines.append(
            f"The interval includes 0: {seeds} {_runs(units, unpaired)} cannot distinguish this gain from zero."
        )
    else:
        lines.append(
            "The interval does not include 0. It assumes roughly normal differences, which "
            f"{seeds} {_runs(units, unpaired)} cannot show."
        )
    return lines


def _runs(units: str, unpaired: str) -> str:
    return "runs" if unpaired else units


def _seeds_of(*groups: Group) -> str:
    return "; ".join(f"{group.letter}: {', '.join(map(str, group.seeds))}" for group in groups)
