"""Implement `lgkd inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from lgkd.analysis.inspect.output import check_folder, read_places
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.runner.resolve import check_dataset
from lgkd.runs.folder import read_run, read_student


def inspect(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for plots and tables.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="RUN", help="An unguided run to compare with.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="NAME", help="Compare with it: a trained teacher, or a run's folder."),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="A,B,C", help="Indices in the test split, to show maps of.")
    ] = None,
    most: Annotated[int, typer.Option("--most", help="Number of test images to measure on.")] = 512,
    dataset: o.TestImages = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Analyse a student: attention, CKA, robustness.

    Attention distance of its heads, similarity of its blocks to the teacher's stages
    (CKA), maps of chosen images, and accuracy under common corruptions; as plots and
    CSV, guided and unguided side by side.

    Example: lgkd inspect runs/guided --baseline runs/unguided --out inspected
    """
    o.bring_in(use)
    for folder in (run, baseline):
        if folder is not None:
            read_run(folder)
            read_student(folder)
    places = read_places(images) if images is not None else None
    check_folder(out)
    if dataset is not None:
        check_dataset(dataset, data_dir)
    from lgkd.analysis.inspect.inspect import inspect_run

    found = inspect_run(
        run, baseline, out=out, teacher=teacher, images=places, most=most, dataset=dataset, data_dir=data_dir,
        device=device, say=say,
    )  # fmt: skip
    worst = {kind: {who: values[-1] for who, values in each.items()} for kind, each in found.corrupted.items()}
    if as_json:
        show_json(
            {
                "folder": str(out),
                "images": found.images,
                "attention_distance_px": {one.who: one.distances for one in found.students},
                "top1": found.accuracies,
                "top1_under_corruptions": found.corrupted,
                "remarks": list(found.remarks),
            }
        )
        return
    names = [one.who for one in found.students]
    show_table(
        f"robustness: top-1 on {found.images:,} test images, at the highest of 5 severities",
        ("corruption", *names),
        [
            ("none", *(f"{found.accuracies[who]:.1%}" for who in names)),
            *((kind, *(f"{worst[kind][who]:.1%}" for who in names)) for kind in worst),
        ],
        right=range(1, len(names) + 1),
    )
    seen = [one for one in found.students if one.distances]
    if seen:
        show_table(
            "mean attention distance, pixels",
            ("", "first block", "middle", "last", "if all alike"),
            [(one.who, *_distances(one.distances), f"{next(iter(one.even.values())):.1f}") for one in seen],
            right=(1, 2, 3, 4),
        )
    console().print(f"plots and tables in {out}")


def _distances(by_block: dict[str, list[float]]) -> list[str]:
    """Return means over the heads of the first, the middle and the last block."""
    means = [sum(heads) / len(heads) for heads in by_block.values()]
    return [f"{value:.1f}" for value in (means[0], means[len(means) // 2], means[-1])]
