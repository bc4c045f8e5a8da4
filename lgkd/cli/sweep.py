"""Implement `lgkd sweep`: search settings of a recipe on held-out images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.callbacks import watch_each
from lgkd.cli.display import console, duration, line_of, say, show_json, show_table
from lgkd.config.trackers import check_trackers
from lgkd.models.trust import trust
from lgkd.runner.options import Options
from lgkd.runner.time_budget import parse_time
from lgkd.runs.statistics import in_percent
from lgkd.tuning.request import NOT_HERE, SweepRequest
from lgkd.tuning.space import read_space

if TYPE_CHECKING:
    from lgkd.tuning.outcome import Swept

_SHOWN = 20


@o.takes_dataset("cifar100")
@o.with_options(without=NOT_HERE, val_fraction=0.2)
def sweep(  # type: ignore[misc]  # `with_options` leaves NOT_HERE out
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.", autocompletion=completion.recipes)],
    dataset: str,
    student: o.Student,
    search: Annotated[
        list[str] | None,
        typer.Option("--search", metavar="KEY=SPACE", help="LOW..HIGH, log:LOW..HIGH or A,B,C; may be repeated."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="The same in a YAML file, KEY: SPACE.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Most trainings, earlier calls included.")] = 20,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="TIME", help="Start no trial that would take all of them beyond this: 90m, 2h."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="End a trial that is below the median of the earlier ones.")
    ] = False,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher", help="A trained teacher that guides every trial.", autocompletion=completion.trained_teachers
        ),
    ] = None,
    student_option: o.StudentOption = None,
    taps: o.Taps = None,
    use: o.Use = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Search settings of a recipe on held-out images.

    Optuna's TPE proposes the settings of each training (extra: lgkd[sweep]); the score is that
    of its best epoch on the held-out images, never of the test split. The trials, and a recipe
    of the best one for --recipe, are written into one folder. The same command resumes it, also
    with more --trials; a second process may run it at the same time.

    Example: lgkd sweep fast photos/ --student vit_96 --search drop_path=0.0,0.1
    """
    o.bring_in(use)
    check_trackers(options.get("track") or ())
    trust(student, *(teacher or ()))
    own: Options = {name: value for name, value in options.items() if value is not None}  # type: ignore[assignment]
    names = tuple(name.strip() for name in taps.split(",")) if taps is not None else None
    request = SweepRequest(
        recipe, dataset, student, read_space(search or (), space), own, tuple(teacher or ()),
        o.key_values(student_option, "--student-option"), names, trials,
        None if time is None else parse_time(time), prune,
    )  # fmt: skip
    from lgkd.tuning.sweep import run_sweep

    silent = quiet or as_json
    found = run_sweep(request, watch=watch_each(quiet=silent, track=options.get("track")))
    if as_json:
        show_json(found.as_dict())
        return
    show_swept(found)


def show_swept(found: "Swept") -> None:
    """Print the trials by score, and what the best one is worth."""
    facts = ("trial", "state", "score", "epoch", "seconds")
    keys = list(dict.fromkeys(key for row in found.trials for key in row if key not in facts))
    show_table(
        f"{found.metric} on held-out images, in %",
        ("trial", "score", "epoch", "time", *keys),
        (
            (
                row["trial"],
                row["state"] if row["score"] is None else in_percent(row["score"]),
                "-" if row["epoch"] is None else row["epoch"],
                "-" if row["seconds"] is None else duration(row["seconds"]),
                *(row.get(key, "-") for key in keys),
            )
            for row in found.trials[:_SHOWN]
        ),
        right=range(4 + len(keys)),
    )
    if len(found.trials) > _SHOWN:
        say(f"{len(found.trials) - _SHOWN} more trials: trials.csv has them all")
    console().print("")
    for line in found.sentences:
        console().print(line_of(line), soft_wrap=True)
    console().print(f"kept in {found.folder}", soft_wrap=True)
