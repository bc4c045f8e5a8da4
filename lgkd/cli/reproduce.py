"""Implement `lgkd reproduce`: list named experiments, show one, run it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgkd._internal.launch import is_first, share
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.callbacks import watch_each
from lgkd.cli.display import Display, console, show_json, show_pairs, show_table
from lgkd.cli.time_left import TrainingsLeft
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.layout import check_out, default_folder, progress_of, run_of
from lgkd.experiments.markdown import check_results, gain_words, mean_and_spread, seeds_in_words, took
from lgkd.experiments.results import Outcome, Row
from lgkd.experiments.select import choose_arms, find_experiment, turns_of
from lgkd.experiments.spec import Experiment
from lgkd.runs.compare.layout import read_seeds

if TYPE_CHECKING:
    from lgkd.experiments.smoke_test import Started


def reproduce(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="An experiment; without one all are listed.", autocompletion=completion.experiments),
    ] = None,
    arms: Annotated[
        str | None, typer.Option("--arms", metavar="A,B", help="Only these arms, with the teachers they need.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="A,B,C", help="Seeds, instead of the experiment's own.")
    ] = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    max_time: o.MaxTime = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The experiment's folder; by default runs/reproduce/NAME.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="FILE", help="Markdown file, in which the experiment's section is replaced."),
    ] = None,
    look: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, which are finished, and the expected results.")
    ] = False,
    first_steps: Annotated[
        bool, typer.Option("--first-steps", help="Run two steps of 8 images of every arm, and keep nothing.")
    ] = False,
    offline: o.Offline = False,
    nproc: o.Nproc = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Run a named experiment and write its results.

    Finished runs are kept, stopped ones are resumed: repeat the command until it ends with 0.
    For every arm: last epoch, spread over seeds, gain with interval, device, time, commit.

    Example: lgkd reproduce digits
    """
    if name is None:
        _list(as_json=as_json)
        return
    experiment = find_experiment(name)
    keys = [key.strip() for key in arms.split(",")] if arms is not None else None
    chosen = choose_arms(experiment, keys)
    numbers = read_seeds(seeds) if seeds is not None else None
    turns = turns_of(experiment, chosen, numbers)
    folder = out or default_folder(experiment)
    given: Any = {"data_dir": data_dir, "device": device, "offline": offline}
    if first_steps:
        share(nproc, context.obj)
        _first_steps(experiment, keys, given, quiet=quiet or as_json, as_json=as_json)
        return
    check_out(folder, experiment)
    if results is not None:
        check_results(results, experiment)
    if look:
        _look(experiment, folder, progress_of(folder, turns), as_json=as_json)
        return
    share(nproc, context.obj)
    from lgkd.experiments.run import RESULTS
    from lgkd.experiments.run import reproduce as run

    everything = TrainingsLeft.of_folders((f"{turn.arm.key} seed {turn.seed}", run_of(folder, turn)) for turn in turns)
    outcome = run(
        experiment,
        folder,
        arms=keys,
        seeds=numbers,
        results=results,
        watch=watch_each(quiet=quiet or as_json, everything=everything),
        options=given | {"max_time": max_time},
    )
    if not is_first():
        return
    if as_json:
        show_json(outcome.as_dict())
        return
    _show(outcome)
    console().print(f"kept in {folder}; rows in {results or folder / RESULTS}")


def _list(*, as_json: bool) -> None:
    if as_json:
        show_json([_about(experiment) for experiment in EXPERIMENTS.values()])
        return
    show_table(
        "experiments",
        ("name", "needs", "runs", "what"),
        ((one.name, one.scale, _runs(one), one.title) for one in EXPERIMENTS.values()),
        right=(2,),
    )
    console().print("full: a CUDA GPU; show one with: lgkd reproduce NAME --dry-run")


def _runs(experiment: Experiment) -> int:
    return len(turns_of(experiment, experiment.arms, None))


def _about(experiment: Experiment) -> dict[str, Any]:
    """Describe an experiment as plain numbers and strings."""
    return {
        "name": experiment.name,
        "title": experiment.title,
        "question": experiment.question,
        "scale": experiment.scale,
        "dataset": experiment.dataset,
        "part": experiment.part,
        "seeds": list(experiment.seeds),
        "budget": experiment.budget,
        "borrowed_teacher": experiment.borrowed.name if experiment.borrowed else None,
        "arms": [
            {
                "arm": arm.key,
                "label": arm.label,
                "role": arm.role,
                "model": arm.model,
                "model_options": dict(arm.options),
                "teacher": arm.teacher,
                "against": arm.against,
                "seeds": list(arm.seeds or experiment.seeds),
                **{key: list(value) if isinstance(value, tuple) else value for key, value in arm.chosen().items()},
                "quoted": [{"top1": one.top1 / 100, "what": one.what, "source": one.source} for one in arm.quoted],
            }
            for arm in experiment.arms
        ],
        "notes": list(experiment.notes),
    }


def _look(experiment: Experiment, folder: Path, states: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        show_json({**_about(experiment), "folder": str(folder), "runs": states})
        return
    show_pairs(
        {
            "name": experiment.name,
            "question": experiment.question,
            "data set": f"{experiment.dataset}, {experiment.part}",
            "needs": experiment.scale,
            "budget": experiment.budget,
            "folder": folder,
        }
    )
    if experiment.borrowed is not None:
        console().print(f"its teacher is that of: lgkd reproduce {experiment.borrowed.trained_by}")
    console().print("")
    show_table(
        "",
        ("run", "what", "recipe", "so far"),
        (
            (run, arm.label, arm.recipe, state)
            for run, state in states.items()
            for arm in [experiment.arm(run.partition("/")[0])]
        ),
    )
    _show_quoted(Outcome(experiment, folder, tuple(Row(arm) for arm in experiment.arms)))
    for note in experiment.notes:
        console().print()
        console().print(note)


def _first_steps(experiment: Experiment, arms: list[str] | None, options: Any, *, quiet: bool, as_json: bool) -> None:
    from lgkd.experiments.smoke_test import BATCH_SIZE, STEPS, take_first_steps

    with Display("first steps", quiet=quiet or not is_first()) as display:
        options |= {"progress": display.decoded, "downloading": display.downloading}
        started = take_first_steps(experiment, arms=arms, options=options)
    if not is_first():
        return
    if as_json:
        show_json([{"arm": one.arm, "steps": one.steps, "means": one.parts, "seconds": one.seconds} for one in started])
        return
    _show_started(started, f"{STEPS} steps of {BATCH_SIZE} images, guided by untrained teachers; nothing was kept")


def _show_started(started: list["Started"], title: str) -> None:
    show_table(
        title,
        ("arm", "steps", "took", "means"),
        (
            (one.arm, one.steps, took(one.seconds), ", ".join(f"{key} {value:.3g}" for key, value in one.parts.items()))
            for one in started
        ),
        right=(1, 2),
    )


def _show(outcome: Outcome) -> None:
    out, rows = console(), [row for row in (*outcome.rows, *outcome.pools) if row.runs]
    # With unequal classes, a model that names the largest class alone has a high top-1.
    balanced = any(row.shows_balanced for row in rows)
    measure = "balanced accuracy" if balanced else "top-1"
    show_table(
        f"{outcome.experiment.name}: {measure} on the test split, in %",
        ("arm", "seeds", "last epoch", "best", "gain, 95% interval", "a run"),
        (
            (
                row.arm.key,
                seeds_in_words(row).replace(", ", ","),
                mean_and_spread(row.balanced if balanced else row.top1),
                "" if row.best is None or balanced else f"{100 * row.best.mean:.2f}",
                gain_words(row.balanced_gain if balanced else row.gain),
                took(row.seconds),
            )
            for row in (*outcome.rows, *outcome.pools)
        ),
        right=(2, 3, 5),
    )
    out.print("± is the standard deviation over seeds; gains are paired by seed")
    out.print("best: of the best epoch on the test split, as papers print; selected on the data")
    out.print("it is measured on, so it is not an estimate")
    for row in rows:
        gain = row.balanced_gain if balanced else row.gain
        if gain is not None and gain.low is None:
            out.print(f"{row.arm.key}: one seed gives no interval and is not a result")
        elif gain is not None and gain.includes_zero:
            limit = f"{gain.count} seeds cannot distinguish this gain from zero"
            out.print(f"{row.arm.key}: the interval includes 0: {limit}")
    _show_quoted(outcome)
    for row in outcome.rows:
        _show_early(row)


def _show_quoted(outcome: Outcome) -> None:
    quoted = [(row.arm.key, f"{one.top1:.2f}", one.what, one.source) for row in outcome.rows for one in row.arm.quoted]
    if quoted:
        console().print("")
        show_table("quoted, not measured here", ("arm", "top-1", "of what", "source"), quoted, right=(1,))


def _show_early(row: Row) -> None:
    """Print measured accuracy during training beside quoted figures, at the common epochs."""
    early = row.arm.early
    if early is None:
        return
    theirs = dict(early.top1)
    for seed, mine in row.on_the_way.items():
        both = [epoch for epoch in theirs if epoch in mine]
        if both:
            console().print("")
            show_table(
                f"{row.arm.key}, seed {seed}, during training; quoted: {early.what} ({early.source})",
                ("epoch", "here", "quoted"),
                ((epoch, f"{mine[epoch]:.2f}", f"{theirs[epoch]:.2f}") for epoch in both),
                right=range(3),
            )
