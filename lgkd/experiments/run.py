"""Train the unfinished runs of an experiment; repeat a stopped call to resume it."""

from collections.abc import Sequence
from pathlib import Path

from lgkd._internal.distributed import place, wait
from lgkd.errors import InputError, MissingTeacherError
from lgkd.experiments.layout import check_finished, check_out, finished, kept_in, note_commit, run_of
from lgkd.experiments.markdown import check_results, write_results
from lgkd.experiments.results import Outcome, look_at
from lgkd.experiments.select import Turn, choose_arms, images_of, turns_of
from lgkd.experiments.spec import Borrowed, Experiment
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import TeacherCard
from lgkd.models.teacher_store import put_back, read_card
from lgkd.models.trust import trust
from lgkd.runner.build import load_kept_teacher
from lgkd.runner.find_teacher import find_trained_teacher
from lgkd.runner.options import Options
from lgkd.runner.resolve import check_dataset, resolve
from lgkd.runner.runner import Runner
from lgkd.runner.sweep import QueuedRun, Watch, train_in_turn
from lgkd.runs.folder import read_metrics

RESULTS = "results.md"


def reproduce(
    experiment: Experiment,
    out: Path,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    results: Path | None = None,
    watch: Watch | None = None,
    options: Options | None = None,
) -> Outcome:
    """Run an experiment, or the rest of it, and write its rows.

    Args:
        experiment: its definition.
        out: its folder; finished runs in it are kept, an unfinished one is resumed.
        arms: keys of those to train, with the teachers that they need; all if not given.
        seeds: instead of the experiment's.
        results: a Markdown file whose section of this experiment is replaced; results.md in `out` if not given.
        watch: given the title of a run, a context manager with the callbacks as options.
        options: `data_dir`, `device`, `offline`, and `max_time`, which counts for all runs together.

    Raises:
        InputError: invalid arms, seeds or results file; TakenError: the folder holds something else.
        MissingError: the data set or a borrowed teacher is missing.
        Paused, Interrupted: repeat the call to resume.
    """
    given: Options = {**(options or {})}
    chosen = choose_arms(experiment, arms)
    turns = turns_of(experiment, chosen, seeds)
    file = results if results is not None else out / RESULTS
    check_out(out, experiment)
    if results is not None:
        check_results(results, experiment)
    for arm in chosen:
        check_dataset(images_of(experiment, arm, given.get("data_dir")), given.get("data_dir"))
    borrowed = _look_for_borrowed(experiment, out, turns)

    def queued(turn: Turn) -> QueuedRun:
        def train(callbacks: Options, began: float) -> float:
            if not finished(out, turn):
                return _train(experiment, out, turn, {**given, **callbacks}, borrowed, began)
            check_finished(out, experiment, turn)
            return read_metrics(run_of(out, turn))[-1]["test_top1"]

        return QueuedRun(turn.name, f"{turn.arm.key} seed {turn.seed}", lambda: finished(out, turn), train)

    train_in_turn([queued(turn) for turn in turns], watch=watch, max_time=given.get("max_time"))
    outcome = look_at(experiment, out)
    if place().rank == 0:
        write_results(file, outcome)
    return outcome


def _train(
    experiment: Experiment,
    out: Path,
    turn: Turn,
    options: Options,
    borrowed: tuple[TeacherCard, Path] | None,
    began: float,
) -> float:
    arm = turn.arm
    trust(arm.model)  # an experiment is part of lgkd, so the code that it names is, too
    guides = [_open(experiment, out, arm.teacher, turn.seed, borrowed)] if arm.teacher is not None else []
    if place().rank == 0:
        note_commit(out, experiment, turn)
    asked: Options = {**options, **arm.chosen(), "seed": turn.seed, "out": run_of(out, turn)}  # type: ignore[typeddict-item]
    store = kept_in(out, experiment, turn) if arm.role == "teacher" else None
    config = resolve(
        arm.role,
        arm.model,
        images_of(experiment, arm, options.get("data_dir")),
        asked,
        model_options=arm.options,
        teachers=guides,
        taps=arm.taps,
        store=store,
    )
    run = Runner(config, began=began).run(keep=True)
    wait()  # the first process still has to store a teacher that the others will open
    return run.top1


def _open(experiment: Experiment, out: Path, key: str, seed: int, borrowed: tuple[TeacherCard, Path] | None) -> Teacher:
    """Load the trained teacher that an arm names: the one that all seeds share, or that of the student's seed."""
    if borrowed is not None and experiment.borrowed is not None and key == experiment.borrowed.name:
        return load_kept_teacher(*borrowed)
    arm = experiment.arm(key)
    turn = Turn(arm, seed if arm.seeds is None else arm.seeds[0])
    folder = kept_in(out, experiment, turn)
    put_back(folder)
    if not folder.is_dir():
        run = run_of(out, turn)
        raise InputError(
            f"{run} is finished, but its teacher is not at {folder}; remove {run}, and it is trained again"
        )
    return load_kept_teacher(read_card(folder), folder)


def _look_for_borrowed(experiment: Experiment, out: Path, turns: Sequence[Turn]) -> tuple[TeacherCard, Path] | None:
    """Find the teacher of another experiment, if an arm needs it, before hours are spent."""
    wanted = experiment.borrowed
    if wanted is None or not any(turn.arm.teacher == wanted.name and not finished(out, turn) for turn in turns):
        return None
    return find_borrowed(wanted, experiment, out)


def find_borrowed(wanted: Borrowed, experiment: Experiment, out: Path) -> tuple[TeacherCard, Path]:
    """Find a borrowed teacher: beside this experiment's folder, in the user's store, or with lgkd.

    Raises:
        MissingTeacherError: there is none; the error has the command that trains it.
    """
    beside = out.absolute().parent / wanted.trained_by / "teachers" / wanted.arm / "seed0"
    folder = beside / experiment.dataset / wanted.name
    put_back(folder)
    if folder.is_dir():
        return read_card(folder), folder
    try:
        return find_trained_teacher(wanted.name, experiment.dataset)
    except MissingTeacherError as error:
        raise MissingTeacherError(
            f"{experiment.name} needs the teacher of {wanted.trained_by}, which is neither at {folder} nor in the "
            f"store; train it with: lgkd reproduce {wanted.trained_by} (or any other {wanted.name}: {error.command})",
            name=wanted.name, dataset=experiment.dataset, command=error.command, others=error.others,
        ) from None  # fmt: skip
