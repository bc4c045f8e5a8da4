"""Implement `lgkd report`."""

from pathlib import Path
from typing import Annotated

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json
from lgkd.runner.resolve import check_dataset


def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a finished run, or several that differ by seed.", autocompletion=completion.runs
        ),
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option("--baseline", metavar="RUN", help="An unguided run to compare with; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The HTML file; by default report.html in the run.")
    ] = None,
    dataset: o.TestImages = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Write a report of a run as one HTML file.

    Curves with the baseline's band, parts of the loss, gain by class, confusion,
    calibration, images corrected or spoiled by guidance, cost, recipe, and how to
    reproduce it; the plots as PNG in a folder beside it.

    Example: lgkd report runs/guided --baseline runs/unguided
    """
    o.bring_in(use)
    if dataset is not None:
        check_dataset(dataset, data_dir)
    from lgkd.analysis.report.selection import choose

    choose(run, baseline or ())  # before torch is imported
    from lgkd.analysis.report.report import write_report

    file = write_report(run, baseline or (), out=out, dataset=dataset, data_dir=data_dir, device=device, say=say)
    if as_json:
        show_json({"report": str(file), "figures": str(file.with_suffix(""))})
        return
    console().print(f"report in {file}, its figures in {file.with_suffix('')}")
