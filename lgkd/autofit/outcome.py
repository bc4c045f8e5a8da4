"""Hold the results of a fit: the three numbers that matter, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lgkd._internal.metric_rules import MAP, headline
from lgkd.autofit.folder import EXPORT, REPORT, STUDENTS, TEACHER, State
from lgkd.autofit.plan import UNEQUAL
from lgkd.runs.compare.layout import member
from lgkd.runs.folder import read_run
from lgkd.runs.statistics import binomial_difference, binomial_interval, paired_interval


@dataclass(frozen=True)
class Fitted:
    """Hold a finished fit.

    Attributes:
        folder: of everything.
        student: the run of the guided student with the first seed, which was exported.
        report: the HTML file; None where it could not be written.
        export: the folder of the exported student; None where it could not be written.
        results: accuracies from 0 to 1 with 95 % intervals: of "guided", "teacher" and, with a baseline, "unguided" and
            "gain"; "seconds" used, and "promised". Of several labels an image "map" and "micro_f1" in place of "top1".
        left_out: parts that could not be written, with the reason.
        plan: the settings and their reasons, as JSON values.
    """

    folder: Path
    student: Path
    report: Path | None
    export: Path | None
    results: Mapping[str, Any]
    left_out: Mapping[str, str]
    plan: Mapping[str, Any]

    @classmethod
    def of(cls, state: State, seeds: Sequence[int]) -> "Fitted":
        """Make it from the state of a finished fit."""
        folder, left_out = state.folder, state.left_out
        return cls(
            folder=folder,
            student=member(folder / STUDENTS, seeds[0], "guided"),
            report=None if "report" in left_out else folder / REPORT,
            export=None if "export" in left_out else folder / EXPORT,
            results=state.results or {},
            left_out=left_out,
            plan=state.plan,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "folder": str(self.folder),
            "student": str(self.student),
            "report": None if self.report is None else str(self.report),
            "export": None if self.export is None else str(self.export),
            "left_out": dict(self.left_out),
            "plan": dict(self.plan),
            **self.results,
        }


def read_results(state: State, seeds: Sequence[int], *, baseline: bool, promised: float | None) -> dict[str, Any]:
    """Read the accuracies from the runs.

    Args:
        state: of the fit, whose runs are finished.
        seeds: of the students.
        baseline: whether there are unguided students.
        promised: seconds; None where the length was given otherwise.
    """
    folder = state.folder / STUDENTS
    guided = [read_run(member(folder, seed, "guided")) for seed in seeds]
    unequal = state.facts.ratio >= UNEQUAL and not state.facts.several_labels
    results: dict[str, Any] = {
        "guided": _accuracy(guided, unequal),
        "teacher": _accuracy([read_run(state.folder / TEACHER)], unequal),
        "unguided": None,
        "gain": None,
        "seeds": list(seeds),
        "unequal_classes": unequal,
        "seconds": round(state.seconds, 1),
        "promised": promised,
    }
    if baseline:
        alone = [read_run(member(folder, seed, "unguided")) for seed in seeds]
        results["unguided"] = _accuracy(alone, unequal)
        results["gain"] = _gain(guided, alone)
    return results


def _accuracy(runs: Sequence[Mapping[str, Any]], unequal: bool) -> dict[str, Any]:
    """Return the mean accuracy over the seeds, with the interval of that many test images.

    Of several labels an image it is the mean average precision, whose interval one test split does not give.
    """
    found = [run["results"] for run in runs]
    images = int(runs[0]["dataset"]["test_images"])
    if headline(found[0]) is MAP:
        scores = {key: fmean(one[f"test_{key}"] for one in found) for key in ("map", "micro_f1")}
        return {**scores, "low": None, "high": None, "images": images}
    top1 = fmean(one["test_top1"] for one in found)
    interval = binomial_interval(top1, images)
    balanced = [one.get("test_balanced_accuracy") for one in found]
    return {
        "top1": top1,
        "low": interval.low,
        "high": interval.high,
        "images": images,
        "balanced_accuracy": fmean(balanced) if unequal and None not in balanced else None,
    }


def _gain(guided: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the gain by guidance: with several seeds their t-interval, with one that of the test images alone.

    One seed of several labels an image has no interval.
    """
    main = headline(guided[0]["results"])
    ours, theirs = ([run["results"][f"test_{main.key}"] for run in runs] for runs in (guided, alone))
    if len(ours) == 1 and main is MAP:
        return {"mean": ours[0] - theirs[0], "low": None, "high": None, "interval_over": None}
    if len(ours) > 1:
        interval, over = paired_interval(theirs, ours), "seeds"
    else:
        interval, over = binomial_difference(theirs[0], ours[0], int(guided[0]["dataset"]["test_images"])), "images"
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "interval_over": over}
