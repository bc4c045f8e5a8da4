"""Implement `lgkd quickstart`: the whole method on embedded data, and how to read the result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lgkd._internal.hardware import side_by_side
from lgkd.cli import options as o
from lgkd.cli.board import Board
from lgkd.cli.display import console, duration, show_json, show_table
from lgkd.runner.resolve import resolve_recipe
from lgkd.runs.compare.layout import read_seeds
from lgkd.runs.compare.summary import gain_lines as sentences
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from lgkd.experiments.quickstart_outcome import Outcome

NEXT = """\
Next, within the hour on two cores, with your own images in
photos/train/CLASS/* and photos/test/CLASS/*:
  lgkd fit photos/ --time 50m --baseline
or with the 50,000 images of CIFAR-100, a download of 169 MB:
  lgkd train-teacher fastnet_guide cifar100 --recipe teacher-fast --time 10m
  lgkd distill --student vit_128_conv --teacher fastnet_guide \\
    --dataset cifar100 --recipe fast --time 20m"""
"""Commands to continue with; each ends within the hour."""


def quickstart(
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="A,B,C", help="One run of each kind per seed.")
    ] = "0,1,2,3,4,5",
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Shorten the trainings, to test that everything works.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Measure on held-out training images, as when settings were chosen."),
    ] = False,
    changes: o.Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new or empty folder; by default quickstart, quickstart-2, ...")
    ] = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a teacher, a small transformer alone, and the same one guided, on embedded digits; show the gain.

    Needs no download, no GPU and a few minutes. Your store of teachers is not touched. As
    many trainings as there are cores, or OMP_NUM_THREADS, run side by side, one thread each;
    their number changes no result.

    Example: lgkd quickstart
    """
    chosen = read_seeds(seeds)
    # Mistakes in these are reported before torch is imported.
    resolve_recipe("quickstart", trains="student", guided=True, epochs=epochs, overrides=changes or ())
    silent = quiet or as_json
    from lgkd.experiments.quickstart import quickstart as run
    from lgkd.experiments.quickstart import titles

    names = titles(chosen)
    if not silent:
        at_a_time = min(side_by_side(), len(names))
        console(errors=True).print(
            f"{len(names)} trainings, {f'{at_a_time} at a time' if at_a_time > 1 else 'one after the other'}: for each "
            f"of {len(chosen)} seed{'s' * (len(chosen) > 1)} a teacher (a small CNN), a transformer unguided, and the "
            "same transformer guided by that teacher"
        )
    with Board(names, quiet=silent) as board:
        outcome = run(out, seeds=chosen, epochs=epochs, held_out=held_out, overrides=changes or (), watch=board.watch)
    if as_json:
        show_json({"folder": str(outcome.folder), **outcome.as_dict()})
    else:
        _report(outcome)


def _report(outcome: "Outcome") -> None:
    from lgkd.experiments.quickstart_outcome import WHO

    out = console()
    show_table(
        f"digits, {outcome.labels} labels, {outcome.images} {outcome.split} images",
        ("who", "top-1", "+- sd", *(f"seed {seed}" for seed in outcome.seeds), "time"),
        (
            (
                who,
                f"{in_percent(outcome.top1(who).mean)}%",
                _spread(outcome.top1(who).sd),
                *(f"{in_percent(trial.top1)}%" for trial in outcome.of(who)),
                f"{outcome.seconds_of(who):.1f} s",
            )
            for who in WHO
        ),
        right=range(1, 4 + len(outcome.seeds)),
    )
    for line in ("", *gain_lines(outcome), ""):
        out.print(line, markup=False)
    out.print(f"curves    {outcome.figure}", markup=False)
    out.print(f"numbers   {outcome.folder / 'results.json'}; each training in a folder beside it", markup=False)
    out.print(f"time      {duration(outcome.seconds)}, {duration(outcome.cpu_seconds)} of processor time", markup=False)
    out.print()
    for line in NEXT.splitlines():
        out.print(line, markup=False)


def gain_lines(outcome: "Outcome") -> list[str]:
    """Describe the result in sentences that claim no more than the numbers do."""
    gain, widest, count = outcome.gain, outcome.widest, len(outcome.seeds)
    pairs = zip(outcome.of("guided"), outcome.of("unguided"), strict=True)
    lines = sentences("gain of the guide", gain, [guided.top1 - alone.top1 for guided, alone in pairs])
    if widest.gain > 0:
        lines.append(
            f"During training it was largest, {in_percent(widest.gain, signed=True)} points, after {widest.step:,} of "
            f"{outcome.steps:,} steps (picked from the curve: a description, not a result)."
        )
    else:
        lines.append("During training the guided students were never ahead in the mean.")
    lines.append(
        "How to read it: n = "
        f"{count}, every run is shown, none was picked. A pair shares labels, first weights, batches and augmentation; "
        "each seed draws new ones, and its teacher saw the same labels."
    )
    lines.append(_how_chosen(outcome))
    if outcome.steps < outcome.full_steps:
        lines.append(
            f"Shortened to {outcome.steps:,} of {outcome.full_steps:,} steps: this tests that everything works, "
            "not the benefit of guidance."
        )
    return lines


def _how_chosen(outcome: "Outcome") -> str:
    if outcome.overrides:
        return f"Settings were changed for this run: {', '.join(outcome.overrides)}."
    if outcome.split != "test":
        return "Measured on held-out training images, on which the settings were chosen: expect less on others."
    return "Settings were chosen on held-out training images with other seeds (100 and up), never on the test split."


def _spread(sd: float | None) -> str:
    return "-" if sd is None else in_percent(sd)
