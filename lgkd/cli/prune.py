"""Implement `lgkd prune`."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lgkd._internal.metric_rules import headline_of
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.runner.prune_request import check_request
from lgkd.runs.folder import RECIPE
from lgkd.runs.statistics import in_percent


def prune(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", autocompletion=completion.runs)],
    keep: Annotated[float, typer.Option("--keep", metavar="SHARE", help="Share of heads and MLP units to keep.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the smaller student's run.")],
    keep_heads: Annotated[
        float | None, typer.Option("--keep-heads", metavar="SHARE", help="Share of the heads, instead of --keep.")
    ] = None,
    keep_units: Annotated[
        float | None, typer.Option("--keep-units", metavar="SHARE", help="Share of the MLP units, instead of --keep.")
    ] = None,
    without_guide: Annotated[
        bool, typer.Option("--without-guide", help="Rank by the classification loss alone.")
    ] = False,
    images: Annotated[int, typer.Option("--images", help="Number of training images to measure importance on.")] = 2048,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Where its images are now.", autocompletion=completion.datasets)
    ] = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Remove a student's least important heads and MLP units.

    Importance is first-order Taylor: gradient times activation of the training loss, the
    guide's terms included. The smaller student is a run of its own, to be evaluated,
    exported and fine-tuned like every other; the command for that is printed.

    Example: lgkd prune runs/guided --keep 0.6 --out runs/pruned
    """
    o.bring_in(use)
    check_request(run, out, keep, keep_heads, keep_units, images)
    from lgkd.runner.prune_student import prune_student

    given: dict[str, Any] = {"device": device, "data_dir": data_dir}
    made = prune_student(
        run, keep, out=out, keep_heads=keep_heads, keep_units=keep_units, guided=not without_guide, images=images,
        dataset=dataset, options={key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        say=None if as_json else say,
    )  # fmt: skip
    name, command = headline_of(made.info["dataset"]).key, fine_tuning(made.info, out)
    if as_json:
        show_json(
            {
                "folder": str(out),
                "options": made.options,
                "heads": made.heads,
                "units": [len(units) for units in made.units],
                "parameters": {"before": made.parameters[0], "after": made.parameters[1]},
                name: {"before": made.scores[0], "after": made.scores[1]},
                "importance": {"images": made.images, "terms": made.info["pruned"]["terms"]},
                "fine_tune": command,
            }
        )
        return
    show_table(
        f"kept of every block, by importance on {made.images:,} training images",
        ("block", "heads", "MLP units"),
        [
            (place, f"{len(heads)} of {most[0]}", f"{len(units)} of {most[1]}")
            for place, (heads, units, most) in enumerate(zip(made.heads, made.units, made.whole, strict=True))
        ],
        right=(1, 2),
    )
    before, after = made.parameters
    out_of = console()
    out_of.print(f"parameters: {before:,} -> {after:,} ({after / before:.0%})")
    out_of.print(
        f"{headline_of(made.info['dataset']).name} on the test split, not fine-tuned: {in_percent(made.scores[0])} -> "
        f"{in_percent(made.scores[1])}"
    )
    out_of.print(f"kept in {out}; fine-tune it, with fewer epochs and a lower optimizer.lr by --set, by:")
    out_of.print(command, soft_wrap=True)


def fine_tuning(info: Mapping[str, Any], folder: Path) -> str:
    """Compose the command that trains a pruned student further, with the guide of its parent.

    Args:
        info: run.json of the pruned run.
        folder: of the run.
    """
    call, about = info["call"], info["dataset"]
    words = ["lgkd", info["kind"], "--student", info["student"]["name"]]
    for teacher in call["teachers"]:
        words += ["--teacher", teacher]
    words += ["--dataset", about["path"] or about["name"]]
    if about["data_dir"] is not None:
        words += ["--data-dir", about["data_dir"]]
    for key, value in call["model_options"].items():
        words += ["--student-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if call["taps"]:
        words += ["--taps", ",".join(call["taps"])]
    for option in ("fraction", "images_per_class", "subset_seed", "val_fraction", "groups", "folds", "fold"):
        if (value := call["options"].get(option)) is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--recipe", str(folder / RECIPE), "--init", str(folder)])
