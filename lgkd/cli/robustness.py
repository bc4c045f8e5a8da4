"""Implement `lgkd robustness`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.errors import TakenError
from lgkd.runner.resolve import check_dataset
from lgkd.runs.statistics import Interval, Summary, in_percent

if TYPE_CHECKING:
    from lgkd.analysis.robustness.robustness import Effect, Robustness
    from lgkd.runs.compare import Difference

_NAMES = {"top1": "top-1 accuracy", "balanced_accuracy": "balanced accuracy"}


def robustness(
    runs: o.SeriesFolders,
    against: o.Against = None,
    most: Annotated[
        int | None, typer.Option("--most", help="Number of test images to measure on; by default all.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the accuracy of every run and severity.")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Plot accuracies and differences.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite these files.")] = False,
    dataset: o.TestImages = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Measure runs under corruptions: accuracy, drop, mCE.

    Mean accuracy over the corruptions and severities of `lgkd inspect`, relative drop from
    the clean accuracy, and mean corruption error relative to the unguided runs. All runs
    see the same corrupted images; intervals are paired by image.

    Example: lgkd robustness runs/guided runs/unguided --png robustness.png
    """
    o.bring_in(use)
    for file in (csv, png):
        if file is not None and file.exists() and not replace:
            raise TakenError(f"{file} exists already; it was not touched. Choose another name, or add --replace")
    from lgkd.analysis.robustness.request import check_request
    from lgkd.runs.compare import compare

    check_request(compare(*runs, against=against), most)
    if dataset is not None:
        check_dataset(dataset, data_dir)
    from lgkd.analysis.robustness.output import as_dict, draw_robustness, write_csv
    from lgkd.analysis.robustness.robustness import measure_robustness

    found = measure_robustness(
        *runs, against=against, most=most, dataset=dataset, data_dir=data_dir, device=device, say=say
    )
    if csv is not None:
        write_csv(found, csv)
    if png is not None:
        draw_robustness(found, png)
    if as_json:
        show_json(as_dict(found))
        return
    _show(found)
    for file in (csv, png):
        if file is not None:
            console().print(f"kept in {file}", soft_wrap=True)


def _show(found: "Robustness") -> None:
    """Print levels and errors by corruption as tables, and differences in sentences."""
    out = console()
    comparison = found.comparison
    for metric, name in _NAMES.items():
        if metric not in found.levels:
            continue
        show_table(
            f"{name} on {found.images:,} test images, in %",
            ("", "run", comparison.groups[0].units, "clean", "corrupted", "drop", "mCE", "rel. mCE"),
            (
                (
                    group.letter,
                    group.label,
                    len(group.runs),
                    *(
                        _cell(found.summary(metric, group, quantity))
                        for quantity in ("clean", "corrupted", "relative_drop", "mce", "relative_mce")
                    ),
                )
                for group in comparison.groups
            ),
            right=range(2, 8),
        )
        out.print("")
        show_table(
            f"{name} by corruption, mean of 5 severities, in %",
            ("corruption", *(group.letter for group in comparison.groups),
             *(f"CE of {one.group.letter}" for one in comparison.differences)),
            _by_corruption(found, metric),
            right=range(1, 1 + len(comparison.groups) + len(comparison.differences)),
        )  # fmt: skip
        out.print("")
    for metric in found.levels:
        for difference, effects in zip(comparison.differences, found.effects[metric], strict=True):
            for line in _lines(difference, effects, _NAMES[metric]):
                out.print(line)
    out.print(
        "drop: share of the clean accuracy that is lost. mCE: errors under corruptions relative to those of the"
        " reference, below 100 is better; rel. mCE: of the increase of the error."
    )
    out.print(
        "The corruptions are lgkd's own and the reference is not AlexNet: these are not figures of CIFAR-C or"
        " ImageNet-C."
    )
    for remark in found.remarks:
        out.print(f"Beware: {remark}.")


def _by_corruption(found: "Robustness", metric: str) -> list[tuple[str, ...]]:
    levels, rows = found.levels[metric], []
    for kind in next(iter(levels.values()))[0].by_kind:
        means = []
        for group in found.comparison.groups:
            values = [value for level in levels[group.letter] for value in level.by_kind[kind]]
            means.append(in_percent(sum(values) / len(values)))
        errors = [in_percent(effects[f"ce {kind}"].over_images.mean, digits=1) for effects in found.effects[metric]]
        rows.append((kind, *means, *errors))
    return rows


def _cell(found: Summary | None) -> str:
    if found is None:
        return "-"
    return in_percent(found.mean) + ("" if found.sd is None else f" ± {in_percent(found.sd)}")


def _lines(difference: "Difference", effects: Mapping[str, "Effect"], name: str) -> list[str]:
    """Describe the difference in corrupted accuracy and the mCE, with intervals."""
    pair = f"{difference.group.letter} - {difference.reference.letter}"
    gain, mce = effects["corrupted"], effects["mce"].over_images
    images = gain.over_images
    zero = "includes 0" if images.includes_zero else "does not include 0"
    lines = [
        f"{pair}, {name} under corruptions: {in_percent(images.mean, signed=True)} points, 95% bootstrap interval over "
        f"images {_ends(images, signed=True)}, which {zero}; mCE {in_percent(mce.mean, digits=1)}"
        f"{'' if mce.low is None else f', {_ends(mce)}'}."
    ]
    seeds = gain.over_seeds
    if seeds is not None and seeds.low is not None:
        zero = "includes 0" if seeds.includes_zero else "does not include 0"
        how = f"paired over {len(difference.group.runs)} seeds" if difference.paired else "Welch's, not paired"
        lines.append(f"{pair}, over trainings: 95% t-interval {_ends(seeds, signed=True)}, {how}, which {zero}.")
    else:
        lines.append(f"{pair}: one training each; the interval over images is not one over other seeds.")
    return lines


def _ends(interval: Interval, *, signed: bool = False) -> str:
    if interval.low is None or interval.high is None:
        return "none"
    return f"{in_percent(interval.low, signed=signed)} to {in_percent(interval.high, signed=signed)}"
