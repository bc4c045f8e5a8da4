"""Implement `lgkd fit`: one command from a folder of images to a trained, reported and exported student."""

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from lgkd._internal.hardware import process_start
from lgkd._internal.launch import IN_MAIN
from lgkd._internal.text import counted
from lgkd.autofit.folder import STUDENTS, TEACHER, find_state, part_of
from lgkd.autofit.plan import in_words
from lgkd.autofit.request import Request
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.callbacks import watch_each
from lgkd.cli.display import Display, console, duration, line_of, say, show_json
from lgkd.cli.time_left import PromisedTime, TimeLeft, TrainingsLeft
from lgkd.cli.train import seeds_of
from lgkd.config.trackers import check_trackers
from lgkd.config.values import read_image_size
from lgkd.models.trust import trust
from lgkd.runner.options import Options
from lgkd.runner.time_budget import LEAST_STEPS
from lgkd.runs.compare.layout import Kind, member
from lgkd.runs.folder import is_finished
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from lgkd.autofit.dry_run import FitEstimate
    from lgkd.autofit.outcome import Fitted

EVENING = 3 * 3600.0
"""Seconds that a proposed command takes at most."""
WIDTH = 80
"""Columns that no line of the plan exceeds."""


@o.takes_dataset(required=True)
@o.with_options(without=("cached", "approximate", "force"))
def fit(
    context: typer.Context,
    dataset: str,
    baseline: Annotated[
        bool,
        typer.Option("--baseline", "--with-baseline", help="Also train unguided, to measure the gain."),
    ] = False,
    student: Annotated[
        str | None,
        typer.Option("--student", help="Instead of the chosen student.", autocompletion=completion.students),
    ] = None,
    student_option: o.StudentOption = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Architecture, instead of the chosen CNN.", autocompletion=completion.teachers),
    ] = None,
    teacher_recipe: Annotated[
        str, typer.Option("--teacher-recipe", help="Recipe of the teacher.", autocompletion=completion.recipes)
    ] = "teacher-fast",
    teacher_image_size: Annotated[
        Any,
        typer.Option(
            "--teacher-image-size",
            help="Side of the teacher's images, or HEIGHTxWIDTH, in pixels.",
            metavar="SIZE",
            parser=o.read_option(read_image_size),
        ),
    ] = None,
    teacher_set: Annotated[
        list[str] | None,
        typer.Option("--teacher-set", metavar="A.B=VALUE", help="Change any key of the teacher's recipe."),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option("--flip/--no-flip", help="Mirror images; not where left and right mean something."),
    ] = True,
    seeds: o.Seeds = None,
    use: o.Use = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Fit a folder of images within a time.

    Says in a few lines what it chooses and why, trains a small CNN and the Vision Transformer
    that it guides, writes report, exports and model card into one folder, and ends with the
    accuracies and the next commands. --time is for everything, 1h if neither it nor --epochs
    is given. --dry-run shows plan and time. The same command resumes it. --recipe,
    --image-size and --set are the student's; docs/choosing.md has the rules.

    Example: lgkd fit photos/ --time 1h --baseline
    """
    o.bring_in(use)
    several = seeds_of(seeds, options["seed"])
    own: Options = {name: value for name, value in options.items() if value is not None and name != "seed"}  # type: ignore[assignment]
    check_trackers(own.get("track") or ())
    trust(*(name for name in (student, teacher) if name is not None))
    silent = quiet or as_json
    display = Display("fit", quiet=silent)
    own.update({"say": display.say, "progress": display.decoded, "downloading": display.downloading})
    request = Request(
        dataset, own, student, teacher, o.key_values(student_option, "--student-option"), teacher_recipe,
        teacher_image_size, tuple(teacher_set or ()), baseline, tuple(several or [options["seed"]]), flip,
    )  # fmt: skip
    if dry_run:
        _show_estimate(request, as_json=as_json)
        return
    from lgkd.autofit.fit import run_request

    watch = watch_each(quiet=silent, track=own.get("track"), everything=_time_left(request))
    done = run_request(request, watch=watch, since_start=bool(IN_MAIN))
    if as_json:
        show_json(done.as_dict())
        return
    for line in outcome_lines(done, context.obj):
        console().print(line_of(line), soft_wrap=True)


def _time_left(request: Request) -> TimeLeft:
    """Count down the promised time, of which earlier processes have used some; without one estimate from the runs."""
    state = find_state(request.folder, request.as_dict())
    if request.seconds is not None:
        passed = time.monotonic() - process_start() if IN_MAIN else 0.0
        return PromisedTime(request.seconds - passed - (0.0 if state is None else state.seconds))
    kinds: tuple[Kind, ...] = ("guided", "unguided") if request.baseline else ("guided",)
    students = [
        member(request.folder / STUDENTS, seed, kind, fold)
        for fold in request.folds
        for seed in request.seeds
        for kind in kinds
    ]
    teachers = [part_of(request.folder / TEACHER, fold) for fold in request.folds]
    trained = [("teacher", one) for one in teachers if not is_finished(one)]
    return TrainingsLeft.of_folders([*trained, *((" ".join(one.name.split("-")), one) for one in students)])


def _show_estimate(request: Request, *, as_json: bool) -> None:
    from lgkd.autofit.dry_run import estimate_fit
    from lgkd.autofit.plan import Plan

    def planned(plan: Plan) -> None:
        if not as_json:
            for line in plan.lines:
                console().print(line_of(line), soft_wrap=True)
            say("timing a few steps of each training; nothing is written")

    found = estimate_fit(request, planned=planned)
    if as_json:
        show_json({"folder": str(request.folder), **found.as_dict()})
        return
    for line in estimate_lines(found):
        console().print(line_of(line), soft_wrap=True)
    console().print(line_of(f"into     {request.folder}{' (resumes the fit there)' if found.resumes else ''}"))


def estimate_lines(found: "FitEstimate") -> list[str]:
    """Describe the time of each part in lines."""
    seconds, folds = found.seconds, f" x {found.folds} folds" if found.folds > 1 else ""
    seeds = folds + (f" x {found.seeds} seeds" if found.seeds > 1 else "")
    lines = [_part("teacher", seconds["teacher"], found.teacher.steps, found.teacher.plan.steps_per_epoch, folds)]
    for name, one in (("guided", found.guided), ("unguided", found.unguided)):
        if one is not None:
            lines.append(_part(name, seconds[name], found.steps, one.plan.steps_per_epoch, seeds))
    lines.append(f"after    about {duration(found.after)} for report and export")
    promised = f", of {in_words(found.promised)}" if found.promised is not None else ""
    lines.append(f"in all   about {duration(seconds['together'])}{promised}; start-up is not counted")
    if found.promised is not None and found.steps <= LEAST_STEPS and seconds["together"] > 1.05 * found.promised:
        lines.append(f"too short for {LEAST_STEPS} steps of each student; give more --time")
    return lines


def _part(name: str, seconds: float, steps: int, steps_per_epoch: int, seeds: str) -> str:
    epochs = steps / max(1, steps_per_epoch)
    return f"{name:<8} about {duration(seconds)}: {counted(steps, 'step')}, {epochs:.3g} epochs{seeds}"


def outcome_lines(done: "Fitted", arguments: Sequence[str] | None) -> list[str]:
    """Describe the results in a few lines, with the next commands.

    Args:
        done: the finished fit.
        arguments: as typed, without the program's name; None where they are not known.
    """
    results = done.results
    kinds = [name for name in ("guided", "unguided", "teacher") if results[name] is not None]
    lines = [_accuracy(name, results[name], results.get("folds")) for name in kinds]
    if results["gain"] is not None:
        lines += _gain(results["gain"], len(results["seeds"]))
    promised = f" of {in_words(results['promised'])}" if results["promised"] is not None else ""
    lines.append(f"time     {duration(results['seconds'])}{promised}")
    lines += [f"no {name}: {reason}" for name, reason in done.left_out.items()]
    lines.append(f"folder   {done.folder} ({', '.join(_parts(done))})")
    lines.append("next")
    if done.export is not None:
        lines.append(f"  lgkd predict {shlex.quote(str(done.export))} IMAGES")
    lines.append(f"  lgkd export {shlex.quote(str(done.student))} --format torch-export")
    if (longer := longer_command(arguments, done)) is not None:
        lines.append(f"  {longer}")
    return lines


def _parts(done: "Fitted") -> list[str]:
    found = [path.name for path in (done.report, done.export) if path is not None]
    return [*found, "students", "teacher"]


def _accuracy(name: str, found: dict[str, Any], folds: int | None) -> str:
    """Describe an accuracy: that of unequal classes counts each class alike."""
    if "map" in found:
        tested = f"on {found['images']:,} test images" if folds is None else f"in {folds} folds"
        f1 = in_percent(found["micro_f1"])
        return f"{name:<8} {in_percent(found['map'])} % mean average precision {tested}, {f1} % micro F1"
    low, high = in_percent(found["low"], digits=1), in_percent(found["high"], digits=1)
    tested = f" of {found['images']:,} test images" if folds is None else f", mean of {folds} folds"
    line = f"{name:<8} {in_percent(found['top1'])} %{tested} ({low} to {high})"
    if found["balanced_accuracy"] is not None:
        line += f", {in_percent(found['balanced_accuracy'])} % balanced"
    return line


def _gain(gain: dict[str, Any], seeds: int) -> list[str]:
    line = f"gain     {in_percent(gain['mean'], signed=True)} points"
    if gain["interval_over"] is None:
        return [f"{line} by the guide", "         one seed has no interval, use --seeds 0,1,2"]
    low, high = in_percent(gain["low"], signed=True, digits=1), in_percent(gain["high"], signed=True, digits=1)
    line += f" ({low} to {high}) by the guide"
    if gain["interval_over"] == "seeds":
        return [f"{line}, 95 % over {seeds} seeds"]
    if gain["interval_over"] == "folds":
        return [f"{line}, 95 % over folds", "         folds share training images: the interval is rather too narrow"]
    return [line, "         by the test images alone; one seed cannot tell, use --seeds 0,1,2"]


def longer_command(arguments: Sequence[str] | None, done: "Fitted") -> str | None:
    """Compose the command with four times the time, at most an evening's, into another folder.

    After a cross-validation it is that of one fit in the same time, without its folds.

    Args:
        arguments: as typed, without the program's name; None where they are not known.
        done: the finished fit.

    Returns:
        The command; None where the words are not known, or the fit had no time or an evening already.
    """
    promised, folded = done.results["promised"], done.results.get("folds") is not None
    if not arguments or (not folded and (promised is None or promised >= EVENING)):
        return None
    replaced = ["--time", "--out", *(["--folds"] if folded else [])]
    if folded and not done.results.get("test_is_made") and not _has(arguments, "--val-fraction"):
        replaced.append("--groups")  # they would have nothing to divide
    words, skipped = [], False
    for word in arguments:
        if skipped:
            skipped = False
        elif word.partition("=")[0] in replaced:
            skipped = "=" not in word
        else:
            words.append(word)
    more = in_words(promised if folded else min(4 * promised, EVENING)) if promised is not None else "whole"
    timed = ["--time", more] if promised is not None else []
    return shlex.join(["lgkd", *words, *timed, "--out", f"{done.folder}-{more}"])


def _has(arguments: Sequence[str], option: str) -> bool:
    return any(word.partition("=")[0] == option for word in arguments)
