"""Compose the verdict of a report: the headline, a sentence with its numbers, and the tiles below it."""

from typing import NamedTuple

from lgkd._internal.metric_rules import MAP, are_unequal, shows_top5
from lgkd.analysis.report.context import Known
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.sentences import name_of, teachers_of, when
from lgkd.runs.class_results import LABEL_METRICS, in_words
from lgkd.runs.statistics import Interval, in_percent
from lgkd.training.class_scores import macro


class Tile(NamedTuple):
    """Represent one measured number: its name, its value, and what belongs to it, such as its interval."""

    label: str
    value: str
    note: str = ""


class Verdict(NamedTuple):
    """Represent the head of a page.

    Attributes:
        headline: the result in a few words.
        lead: a sentence with the numbers that the headline stands on.
        tiles: the measured numbers.
        when: the seeds or folds, and when the last of the runs finished.
    """

    headline: str
    lead: str
    tiles: list[Tile]
    when: str


def verdict(known: Known) -> Verdict:
    """Compose the verdict; it claims no more than the interval of the gain does."""
    chosen = known.chosen
    return Verdict(_headline(chosen), _lead(known), _tiles(known), when(chosen.ours.runs))


def _headline(chosen: Chosen) -> str:
    difference, unit = chosen.difference, _unit(chosen)
    if difference is None:
        if chosen.ours.headline == MAP:
            return f"mAP of {in_percent(chosen.ours.top1.mean)}% on the test images"
        return f"{in_percent(chosen.ours.top1.mean)}% of the test images classified correctly"
    gain, what = difference.interval, "Guidance" if chosen.ours.guided else "This training"
    signed, points = in_percent(gain.mean, signed=True), in_percent(abs(gain.mean))
    if gain.low is None:
        return f"{signed} points over the baseline with one {unit}: not a result yet"
    if gain.includes_zero:
        return f"No clear gain: {signed} points over the baseline"
    return (
        f"{what} gains {points} points over the baseline"
        if gain.mean > 0
        else (f"{what} loses {points} points against the baseline")
    )


def _lead(known: Known) -> str:
    chosen = known.chosen
    ours, baseline, difference = chosen.ours, chosen.baseline, chosen.difference
    images, count = chosen.main.info["dataset"]["test_images"], len(ours.runs)
    several = f", mean of {count} {ours.units}" if count > 1 else ""
    tested = f"{images:,} test images" + (" a fold" if ours.units == "folds" and count > 1 else "")
    if baseline is None or difference is None:
        last = "" if count > 1 else f" One {_unit(chosen)} is not a result: other {_unit(chosen)}s differ."
        name = ours.headline.name
        return f"{name[0].upper()}{name[1:]} on {tested}{several}.{last}"
    who = "guided" if ours.guided else "this training"
    pair = f"{in_percent(ours.top1.mean)}% {who} against {in_percent(baseline.top1.mean)}% of the baseline on {tested}"
    pair = f"mAP {pair}" if ours.headline == MAP else pair
    gain = difference.interval
    if gain.low is None:
        return f"{pair}{several}. Train with more seeds for an interval."
    zero = "includes 0" if gain.includes_zero else "does not include 0"
    return f"{pair}{several}. The 95% interval of the gain is {_interval(gain)}, which {zero}."


def _tiles(known: Known) -> list[Tile]:
    chosen = known.chosen
    ours, baseline, difference = chosen.ours, chosen.baseline, chosen.difference
    results = chosen.main.info["results"]
    which = name_of(chosen.main) if len(ours.runs) > 1 else ""
    theirs = None if baseline is None else baseline.top1.mean
    main = ours.headline
    found = [Tile(f"test {main.key_figure}", f"{in_percent(ours.top1.mean)}%", _beside(chosen, theirs, ours.sd))]
    found += _label_metrics(chosen)
    if (balanced := _balanced(known)) is not None:
        found.append(balanced)
    if difference is not None:
        found.append(_gain("gain", difference.interval, _unit(chosen)))
        alike = difference.interval_of("balanced_accuracy") if difference.unequal else None
        if alike is not None:
            found.append(_gain("balanced gain", alike, _unit(chosen)))
    if shows_top5(len(known.classes)) and "test_top5" in results:
        found.append(Tile("top-5 accuracy", f"{in_percent(results['test_top5'])}%", which))
    if "test_ece" in results:
        found.append(Tile("calibration error", f"{in_percent(results['test_ece'])}%", which))
    teachers = teachers_of(chosen.main.info)
    if len(teachers) == 1 and isinstance(value := teachers[0].get(f"test_{main.key}"), int | float):
        note = which if ours.units == "folds" else ""
        found.append(Tile(f"teacher's {main.key_figure}", f"{in_percent(value)}%", note))
    return found


def _label_metrics(chosen: Chosen) -> list[Tile]:
    """Return the metrics beside mAP of several labels an image; none of one label an image."""
    ours, baseline = chosen.ours, chosen.baseline
    found = []
    for name, title in LABEL_METRICS.items() if ours.headline == MAP else ():
        if (value := ours.metric(name)) is not None:
            theirs = None if baseline is None else baseline.metric(name)
            note = "" if theirs is None else f"baseline {in_words(name, theirs.mean)}"
            found.append(Tile(title, in_words(name, value.mean), note))
    return found


def _gain(label: str, gain: Interval, unit: str) -> Tile:
    note = f"one {unit}, no interval" if gain.low is None else f"95%: {_interval(gain)}"
    return Tile(f"{label}, points", in_percent(gain.mean, signed=True), note)


def _beside(chosen: Chosen, baseline: float | None, sd: float | None) -> str:
    """Return what is shown below an accuracy: the baseline's, or the spread of the runs."""
    if baseline is not None:
        return f"baseline {in_percent(baseline)}%"
    return "" if sd is None else f"± {in_percent(sd)}, {len(chosen.ours.runs)} {chosen.ours.units}"


def _balanced(known: Known) -> Tile | None:
    """Return balanced accuracy where the classes are of unequal size; from the predictions where no run recorded it."""
    chosen, answers = known.chosen, known.answers
    baseline = chosen.baseline
    if chosen.ours.unequal and (ours := chosen.ours.metric("balanced_accuracy")) is not None:
        theirs = None if baseline is None else baseline.metric("balanced_accuracy")
        note = _beside(chosen, None if theirs is None else theirs.mean, ours.sd)
        return Tile("balanced accuracy", f"{in_percent(ours.mean)}%", note)
    if answers is None or known.scored:
        return None
    scores = answers.by_class(len(known.classes))
    value = macro([one.recall for one in scores])
    if value is None or not are_unequal(one.count for one in scores):
        return None
    return Tile("balanced accuracy", f"{in_percent(value)}%", name_of(chosen.main))


def _interval(gain: Interval) -> str:
    return " to ".join(in_percent(end, signed=True) for end in (gain.low, gain.high) if end is not None)


def _unit(chosen: Chosen) -> str:
    return chosen.ours.units.removesuffix("s")
