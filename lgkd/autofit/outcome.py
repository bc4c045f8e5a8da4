"""Hold the results of a fit: the three numbers that matter, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lgkd._internal.metric_rules import MAP, headline
from lgkd.autofit.folder import EXPORT, REPORT, STUDENTS, TEACHER, State, part_of
from lgkd.autofit.plan import UNEQUAL
from lgkd.autofit.request import Request
from lgkd.runs.compare.layout import Kind, member
from lgkd.runs.folder import read_run
from lgkd.runs.statistics import binomial_difference, binomial_interval, paired_interval

_KINDS: tuple[Kind, ...] = ("guided", "unguided")


@dataclass(frozen=True)
class Fitted:
    """Hold a finished fit.

    Attributes:
        folder: of everything.
        student: the run of the guided student with the first seed, and of the first fold, which was exported.
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
    def of(cls, state: State, request: Request) -> "Fitted":
        """Make it from the state of a finished fit."""
        folder, left_out = state.folder, state.left_out
        return cls(
            folder=folder,
            student=student_runs(folder, request, "guided")[0],
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


def student_runs(folder: Path, request: Request, kind: Kind, *folds: int | None) -> list[Path]:
    """List the folders of the students of a kind, seed by seed in each fold; none of a baseline that was not asked for.

    Args:
        folder: of the fit.
        request: its arguments.
        kind: guided or unguided.
        folds: by default all of the request.
    """
    if kind == "unguided" and not request.baseline:
        return []
    return [member(folder / STUDENTS, seed, kind, one) for one in folds or request.folds for seed in request.seeds]


def read_results(state: State, request: Request) -> dict[str, Any]:
    """Read the accuracies from the runs of a fit whose trainings are finished."""
    guided, alone = ([read_run(run) for run in student_runs(state.folder, request, kind)] for kind in _KINDS)
    unequal = state.facts.ratio >= UNEQUAL and not state.facts.several_labels
    teachers = [read_run(part_of(state.folder / TEACHER, fold)) for fold in request.folds]
    folds = len(request.folds)
    results: dict[str, Any] = {
        "guided": _accuracy(guided, unequal, folds),
        "teacher": _accuracy(teachers, unequal, folds),
        "unguided": None,
        "gain": None,
        "seeds": list(request.seeds),
        "folds": folds if request.folds != (None,) else None,
        "test_is_made": state.facts.test_is_made,
        "unequal_classes": unequal,
        "seconds": round(state.seconds, 1),
        "promised": request.seconds,
    }
    if alone:
        results["unguided"] = _accuracy(alone, unequal, folds)
        results["gain"] = _gain(guided, alone, folds)
    return results


def _accuracy(runs: Sequence[Mapping[str, Any]], unequal: bool, folds: int) -> dict[str, Any]:
    """Return the mean accuracy over seeds and folds, with the interval of that many test images.

    Every image is tested on in one fold. Of several labels an image it is the mean average precision, whose interval
    one test split does not give.

    Args:
        runs: of each fold as many.
        unequal: whether balanced accuracy is wanted.
        folds: their number, 1 without.
    """
    found = [run["results"] for run in runs]
    images = sum(int(run["dataset"]["test_images"]) for run in runs) * folds // len(runs)
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


def _gain(guided: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]], folds: int) -> dict[str, Any]:
    """Return the gain by guidance: over several folds or seeds their t-interval, else that of the test images alone.

    The seeds of a fold, which share its images, are one measurement.

    One seed of several labels an image has no interval.
    """
    main = headline(guided[0]["results"])
    ours, theirs = ([run["results"][f"test_{main.key}"] for run in runs] for runs in (guided, alone))
    if folds > 1:
        size = len(ours) // folds
        ours, theirs = (
            [fmean(values[at : at + size]) for at in range(0, len(values), size)] for values in (ours, theirs)
        )
    if len(ours) == 1 and main is MAP:
        return {"mean": ours[0] - theirs[0], "low": None, "high": None, "interval_over": None}
    if len(ours) > 1:
        interval, over = paired_interval(theirs, ours), "folds" if folds > 1 else "seeds"
    else:
        interval, over = binomial_difference(theirs[0], ours[0], int(guided[0]["dataset"]["test_images"])), "images"
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "interval_over": over}
