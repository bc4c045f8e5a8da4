"""Implement `lgkd compare`, and print comparisons for other commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.errors import TakenError
from lgkd.runs.class_results import in_words, metrics_of, selected_by
from lgkd.runs.statistics import Summary, in_percent

if TYPE_CHECKING:
    from lgkd.runs.compare import Comparison

# A comparison of many seeds is summarised by its means; each seed is in the CSV file.
_MOST_GROUPS = 6


def compare(
    runs: o.SeriesFolders,
    against: o.Against = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every run, group and difference as a table.")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Plot curves and differences.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite these files.")] = False,
    as_json: o.Json = False,
) -> None:
    """Compare runs: mean, spread, 95% interval, difference.

    Runs that differ only by seed form a group. Guided students are compared with
    unguided ones, by seed where both have the same. The last epoch counts.

    Example: lgkd compare runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance
    """
    for file in (csv, png):
        if file is not None and file.exists() and not replace:
            raise TakenError(f"{file} exists already; it was not touched. Choose another name, or add --replace")
    from lgkd.runs.compare import compare as put_side_by_side
    from lgkd.runs.compare.tables import write_csv, write_picture

    found = put_side_by_side(*runs, against=against, say=None if as_json else say)
    if csv is not None:
        write_csv(found, csv)
    if png is not None:
        write_picture(found, png)
    if as_json:
        show_json(found.as_dict())
        return
    show_comparison(found)
    for file in (csv, png):
        if file is not None:
            console().print(f"kept in {file}", soft_wrap=True)


def show_comparison(comparison: "Comparison") -> None:
    """Print the groups as a table, each seed, and the conclusions in sentences."""
    from lgkd.runs.compare.summary import summary_lines

    out = console()
    about = comparison.groups[0].runs[0].info["dataset"]
    chosen = any(group.chosen is not None for group in comparison.groups)
    units = comparison.groups[0].units
    measured_on = "each fold's images" if units == "folds" else f"{about['test_images']:,} test images"
    show_table(
        f"{about['name']}, {measured_on}: {comparison.groups[0].headline.short} after the last epoch, in %",
        ("", "run", units, "mean", "sd", "95% interval", *(("held out",) if chosen else ()), "best"),
        (
            (
                group.letter,
                group.label,
                len(group.runs),
                _percent(group.top1.mean),
                _percent(group.sd),
                "no result" if group.top1.low is None else f"{_percent(group.top1.low)} to {_percent(group.top1.high)}",
                *((_percent(group.chosen.mean if group.chosen else None),) if chosen else ()),
                _percent(group.best.mean),
            )
            for group in comparison.groups
        ),
        right=range(2, 8),
    )
    if chosen:
        held_out = [group.runs[0] for group in comparison.groups if group.chosen is not None]
        by = " and ".join(dict.fromkeys(selected_by(run.info["results"]) for run in held_out))
        out.print(f"held out: of the epoch that is best on held-out images, by {by}")
    out.print("best: of the best epoch on the test split, as papers print; selected on the data")
    out.print("it is measured on, so it is not an estimate")
    if comparison.groups[0].headline.key == "map":
        out.print("")
        _show_more(comparison, "beside mAP, in %")
    elif any(group.unequal for group in comparison.groups):
        out.print("")
        _show_more(comparison, "classes of unequal size: metrics in which every class counts alike")
    if any(len(group.runs) > 1 for group in comparison.groups):
        out.print("")
        _show_seeds(comparison)
    out.print("")
    for line in summary_lines(comparison):
        out.print(line)
    for remark in comparison.remarks:
        out.print(f"Beware: {remark}.")


def _show_more(comparison: "Comparison", title: str) -> None:
    """Print the metrics beside the main one: means, with standard deviations over seeds."""
    names = metrics_of(comparison.groups[0].headline)

    def cell(metric: str, found: Summary | None) -> str:
        if found is None:
            return "-"
        spread = "" if found.sd is None else f" ± {in_words(metric, found.sd).removesuffix('%')}"
        return in_words(metric, found.mean).removesuffix("%") + spread

    show_table(
        title,
        ("", *(name.removeprefix("one-vs-rest ") for name in names.values())),
        ((group.letter, *(cell(name, group.metric(name)) for name in names)) for group in comparison.groups),
        right=range(1, 1 + len(names)),
    )


def _show_seeds(comparison: "Comparison") -> None:
    """Print a row for every seed, a column for every group and paired difference."""
    groups = comparison.groups[:_MOST_GROUPS]
    values = {group.letter: {run.pair: run.top1 for run in group.runs} for group in groups}
    paired = [one for one in comparison.differences if one.paired and one.group in groups and one.reference in groups]
    pairs = sorted({pair for group in groups for pair in values[group.letter]})
    rows = []
    runs = [run for group in groups for run in group.runs]
    several = len({run.seed for run in runs}) > 1
    names = {run.pair: run.seed if run.fold is None else f"{run.fold}, seed {run.seed}" if several else run.fold
             for run in runs}  # fmt: skip
    for pair in pairs:
        cells = [_percent(values[group.letter].get(pair)) for group in groups]
        gains = [values[one.group.letter][pair] - values[one.reference.letter][pair]
                 if pair in values[one.group.letter] else None for one in paired]  # fmt: skip
        rows.append((names[pair], *cells, *("" if gain is None else in_percent(gain, signed=True) for gain in gains)))
    heads = [f"{one.group.letter} - {one.reference.letter}" for one in paired]
    titles = (groups[0].units[:-1], *(group.letter for group in groups), *heads)
    show_table("", titles, rows, right=range(len(titles)))
    if len(comparison.groups) > _MOST_GROUPS:
        console().print(f"{len(comparison.groups) - _MOST_GROUPS} more groups: --csv and --json have every seed")


def _percent(value: float | None) -> str:
    return "-" if value is None else in_percent(value)
