"""Implement `lgkd train-teacher`, `lgkd distill`, `lgkd train` and `lgkd resume`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack, cast

import typer

from lgkd._internal.launch import IN_MAIN, is_first, share
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.callbacks import aside, callbacks_of, watch_each
from lgkd.cli.display import Display, say
from lgkd.cli.dry_run import Teachers, show_dry_run
from lgkd.cli.long_training import LongTraining, faster_command
from lgkd.cli.summary import print_next_of_folds, print_next_step, print_run, print_series, write_page
from lgkd.cli.time_left import TrainingsLeft
from lgkd.config.trackers import check_trackers
from lgkd.errors import InputError, LgkdError, MissingTeacherError
from lgkd.models.registry import canonical
from lgkd.models.trust import trust
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, Role, resolve
from lgkd.runner.time_budget import check_equal
from lgkd.runs.compare.layout import check_series, read_seeds
from lgkd.runs.equal_length import Equal
from lgkd.runs.folder import check_free, read_run
from lgkd.training.callbacks import Callback

if TYPE_CHECKING:
    from lgkd.runner.run import Run
    from lgkd.runner.sweep import SweepSpec


@o.takes_dataset("cifar100")
@o.with_options(recipe="teacher", without=("teacher_weights", "cached", "approximate"))
def train_teacher(
    context: typer.Context,
    teacher: Annotated[
        str,
        typer.Argument(
            help="A name of `lgkd teachers`, timm:NAME or package.module:factory.", autocompletion=completion.teachers
        ),
    ],
    dataset: str,
    teacher_option: o.TeacherOption = None,
    nproc: o.Nproc = None,
    dry_run: o.DryRun = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a teacher of that name in the store."), o.Before(o.END)
    ] = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Train a teacher and store it for later distillation.

    Its folder, with a card, is stored in $LGKD_HOME, or ~/.cache/lgkd.

    Example: lgkd train-teacher resnet56 cifar100
    """
    several = seeds_of(None, options["seed"], always=_each_fold(options))
    config = resolve_command(
        "teacher", teacher, dataset, options, teacher_option,
        replace=replace, several=several is not None, writes=not dry_run,
    )  # fmt: skip
    if dry_run:
        show_dry_run(config, seeds=several, processes=nproc, as_json=as_json, arguments=context.obj)
        return
    share(nproc, context.obj)
    if several is not None:
        _run_all(_sweep(config, several), report=False, quiet=quiet, as_json=as_json, arguments=context.obj)
        if not (quiet or as_json):
            print_next_of_folds(config, teacher, dataset)
        return
    run = _run(config, title("teacher", teacher), quiet=quiet or as_json, arguments=context.obj)
    print_run(run, as_json=as_json)
    if not (quiet or as_json):
        print_next_step(run, dataset, options["data_dir"])


@o.takes_dataset("cifar100")
@o.with_options(recipe="locality-guidance")
def distill(
    context: typer.Context,
    dataset: str,
    student: o.Student,
    teacher: o.Teachers = None,
    student_option: o.StudentOption = None,
    taps: o.Taps = None,
    use: o.Use = None,
    seeds: o.Seeds = None,
    with_baseline: Annotated[
        bool,
        typer.Option("--with-baseline", help="Also train unguided, and show the difference."),
        o.Before("precision"),
    ] = False,
    equal: Annotated[
        str,
        typer.Option(
            "--equal",
            metavar="steps|minutes",
            help="With --time and --with-baseline: what the unguided student has in common with the guided one.",
        ),
        o.Before("precision"),
    ] = "steps",
    report: o.Report = False,
    nproc: o.Nproc = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Train a student guided by a frozen teacher, the main task.

    With --seeds 0,1,2 --with-baseline: three seeds, guided and unguided, in one folder,
    and the gain with its 95% interval. The same command resumes it and keeps finished runs.
    With --time, both have the guided student's steps; with --equal minutes, each those that fit.
    With --folds 5: cross-validation, each fold with the teacher of `lgkd train-teacher --folds 5`.

    Example: lgkd distill --student pvtv2 --teacher resnet56
    """
    o.bring_in(use)
    teachers = teacher or ["resnet56"]
    several = seeds_of(seeds, options["seed"], always=with_baseline or _each_fold(options))
    check_equal(equal, options["time"], with_baseline=with_baseline)
    if isinstance(cached := options["cached"], list) and len(cached) == 1:
        options["cached"] = cached[0]
    shown = partial(
        show_dry_run,
        seeds=several,
        with_baseline=with_baseline,
        processes=nproc,
        as_json=as_json,
        arguments=context.obj,
    )
    try:
        config = resolve_command(
            "student", student, dataset, options, student_option, teachers, taps,
            several=several is not None, writes=not dry_run,
        )  # fmt: skip
    except MissingTeacherError:
        if dry_run:
            # Its cost is shown although the training would be refused.
            with suppress(LgkdError, typer.Exit):
                arguments = {
                    "model_options": o.key_values(student_option, "--student-option"),
                    "taps": _names(taps),
                    "several": several is not None,
                }
                untrained, others = _with_untrained(student, teachers, dataset, options, arguments)
                shown(untrained, teachers=others)
        raise
    if dry_run:
        shown(config)
        return
    share(nproc, context.obj)
    if several is not None:
        spec = _sweep(config, several, with_baseline=with_baseline, equal=cast("Equal", equal))
        _run_all(spec, report=report, quiet=quiet, as_json=as_json, arguments=context.obj)
        return
    run = _run(config, title("distill", student), quiet=quiet or as_json, arguments=context.obj)
    print_run(run, as_json=as_json)
    if report:
        write_page(run.folder)


@o.takes_dataset("cifar100")
@o.with_options(recipe="supervised", without=("teacher_weights", "cached", "approximate"))
def train(
    context: typer.Context,
    dataset: str,
    student: o.Student,
    student_option: o.StudentOption = None,
    seeds: o.Seeds = None,
    report: o.Report = False,
    nproc: o.Nproc = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Train a student without a teacher, as a baseline.

    The guide of a recipe is left out, unless all its terms read the student
    alone, as masked-images does.

    Example: lgkd train --student pvtv2
    """
    several = seeds_of(seeds, options["seed"], always=_each_fold(options))
    config = resolve_command(
        "student", student, dataset, options, student_option, several=several is not None, writes=not dry_run
    )
    if dry_run:
        show_dry_run(config, seeds=several, processes=nproc, as_json=as_json, arguments=context.obj)
        return
    share(nproc, context.obj)
    if several is not None:
        _run_all(_sweep(config, several), report=report, quiet=quiet, as_json=as_json, arguments=context.obj)
        return
    run = _run(config, title("train", student), quiet=quiet or as_json, arguments=context.obj)
    print_run(run, as_json=as_json)
    if report:
        write_page(run.folder)


def resume(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The folder of a stopped run.", autocompletion=completion.runs)],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Where its images are now, if they were moved.", autocompletion=completion.datasets
        ),
    ] = None,
    extend: Annotated[
        int | None,
        typer.Option("--extend", metavar="EPOCHS", help="Train a finished run for more epochs, in a new folder."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --extend: the new folder; by default RUN_extended.")
    ] = None,
    use: o.Use = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    max_time: o.MaxTime = None,
    track: o.Track = None,
    nproc: o.Nproc = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Resume a stopped run from its last checkpoint, or extend a finished one.

    Repeating the command that started the run does the same.

    Example: lgkd resume runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0
    """
    o.bring_in(use)
    info = read_run(run)
    share(nproc, context.obj)
    if out is not None and extend is None:
        raise InputError(f"--out {out} is for --extend; a stopped run is resumed in its own folder")
    given = {
        "out": out,
        "data_dir": data_dir,
        "device": device,
        "max_time": max_time,
        "track": track,
        "force": force or None,
    }
    check_trackers(track or ())
    shown = title(str(info["kind"]), str(info["student"]["name"]))
    with aside(track), Display(shown, quiet=quiet or as_json or not is_first()) as display:
        from lgkd import api

        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        done = api.resume(run, dataset=dataset, extend=extend, **chosen, **callbacks_of(display))
    print_run(done, as_json=as_json)
    if done.info["kind"] == "teacher" and not (quiet or as_json):
        about = done.info["dataset"]
        print_next_step(done, str(about["path"] or about["name"]), data_dir or about["data_dir"])


def title(kind: str, model: str) -> str:
    """Return the title of a training's lines, for a new or resumed one: "guided deit_tiny"."""
    word = {"distill": "guided", "train": "unguided"}.get(kind, kind)
    return f"{word} {canonical(model)}"


def seeds_of(seeds: str | None, seed: int, *, always: bool = False) -> list[int] | None:
    """Return the seeds of several runs in one folder; None for one run in its own."""
    if seeds is None:
        return [seed] if always else None
    if seed:
        raise InputError(f"--seed {seed} and --seeds {seeds} were both given; choose one")
    return read_seeds(seeds)


def _each_fold(options: Options) -> bool:
    """Return True if every fold of a cross-validation is trained, in one folder."""
    return options["folds"] is not None and options["fold"] is None


def resolve_command(
    role: Role,
    model: str,
    dataset: str,
    options: Options,
    model_options: list[str] | None,
    teachers: Sequence[str] = (),
    taps: str | None = None,
    *,
    replace: bool = False,
    several: bool = False,
    writes: bool = True,
) -> ResolvedConfig:
    """Refuse impossible choices before torch is imported; arguments are as typed.

    Args:
        role, model, dataset, options, model_options, teachers, taps, replace: as for `resolve`.
        several: seeds are trained in one folder, instead of the one of the options.
        writes: the folder of one run has to be free.
    """
    trust(model, *teachers)
    if several:
        del options["seed"]
    config = resolve(
        role,
        model,
        dataset,
        options,
        model_options=o.key_values(model_options, f"--{role}-option"),
        teachers=teachers,
        taps=_names(taps),
        replace=replace,
        several=several,
    )
    if several:
        check_series(config.folder)
    elif writes:
        check_free(config.folder)
    return config


def _names(taps: str | None) -> list[str] | None:
    return [name.strip() for name in taps.split(",")] if taps is not None else None


def _with_untrained(
    student: str, teachers: Sequence[str], dataset: str, options: Options, arguments: Mapping[str, Any]
) -> tuple[ResolvedConfig, Teachers]:
    """Resolve a dry run with untrained teachers in the place of missing ones, and estimate their training."""
    from lgkd.runner.dry_run.untrained_teachers import estimate_teachers, resolve_with

    # Of a cross-validation the first fold is estimated.
    one: Options = {**options, "fold": 1} if _each_fold(options) else options
    untrained, guides = estimate_teachers(teachers, dataset, one)
    return resolve_with(guides, teachers, student, dataset, options, **arguments), Teachers(teachers, untrained)


def _run(config: ResolvedConfig, shown: str, *, quiet: bool, arguments: Sequence[str] | None) -> "Run":
    """Train with a display."""
    with aside(config.options.get("track")), Display(shown, quiet=quiet or not is_first()) as display:
        from lgkd.runner.fit_time import train_within_time

        given = callbacks_of(display, *_timed(config, display.say, arguments))
        return train_within_time(config.with_options(**given), since_start=bool(IN_MAIN))


def _timed(config: ResolvedConfig, say: Callable[[str], None], arguments: Sequence[str] | None) -> list[Callback]:
    """Make the callback that reports a long training; none where the user has given a time."""
    if config.options.get("time") is not None:
        return []
    return [LongTraining(say, faster_command(config, arguments))]


def _sweep(
    config: ResolvedConfig, seeds: Sequence[int], *, with_baseline: bool = False, equal: Equal = "steps"
) -> "SweepSpec":
    from lgkd.runner.sweep import SweepSpec

    return SweepSpec(config, tuple(seeds), with_baseline, equal)


def _run_all(spec: "SweepSpec", *, report: bool, quiet: bool, as_json: bool, arguments: Sequence[str] | None) -> None:
    """Train all seeds, each with a display, and print the comparison."""
    from lgkd.runner.sweep import train_all

    timed = _timed(spec.config, say, arguments) if not (quiet or as_json) and is_first() else []
    everything = TrainingsLeft.of_folders((one.title, one.folder) for one in spec.runs)
    track = spec.config.options.get("track")
    made = train_all(spec, watch=watch_each(*timed, quiet=quiet or as_json, track=track, everything=everything))
    print_series(made, as_json=as_json)
    if report:
        write_page(made.folder, made.folder / "report.html")
