"""Implement `lgkd export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json, show_pairs, show_table
from lgkd.data.sources.download import is_offline
from lgkd.deploy.inference.image_files import find_images
from lgkd.deploy.options import CARD, check_max_drop, check_opset, choose_formats, export_folder
from lgkd.deploy.push import check_push, push
from lgkd.errors import InputError
from lgkd.runs.folder import read_run, read_student


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", autocompletion=completion.runs)],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="safetensors, onnx, torch-export (these three by default), onnx-fp16 or onnx-int8; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The new folder; by default exports/NAME-OF-THE-RUN.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload it to the Hugging Face hub, too.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read a repository that --push makes.")
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="IMAGE", help="Images to verify on, files or folders; by default its own."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", metavar="N", help="Version of ONNX's operators; by default the exporter's.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also measure the accuracy of every file on the test split.")
    ] = False,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", metavar="POINTS", help="Accuracy that a file in fp16 or int8 may lose."),
    ] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Keep a file that loses more than --max-drop.")] = False,
    data_dir: o.DataDir = None,
    offline: o.Offline = False,
    use: o.Use = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Export a student to formats that need no lgkd.

    With its classes, its preprocessing and a model card. Every file is compared with
    the student on real images; if a logit differs by more than 1e-4, nothing is written.
    Files in fp16 and int8 are judged by their accuracy on the test split instead.

    Example: lgkd export runs/mine --format onnx --out mine-onnx
    """
    o.bring_in(use)
    display = Display("export", quiet=quiet or as_json)
    if repository is not None:
        formats = [*check_push(repository, formats, offline=is_offline(offline))]
    elif public:
        raise InputError("--public is about the repository of --push, expected both; name one by --push OWNER/NAME")
    check_opset(opset, choose_formats(formats, lambda _: None))
    check_max_drop(max_drop)
    read_run(run)
    read_student(run)
    export_folder(run, out)
    given = None if images is None else find_images(images, fault=display.say)
    from lgkd import api

    made = api.export(
        run, out, formats=formats, images=given, data_dir=data_dir, opset=opset, verify=verify, max_drop=max_drop,
        force=force, say=display.say, progress=display.decoded,
    )  # fmt: skip
    address = None if repository is None else _pushed(made.folder, repository, run, public=public)
    if as_json:
        show_json(
            {
                "folder": str(made.folder),
                "files": made.differences,
                "images": made.images,
                "of": made.source,
                "largest_logit": made.largest_logit,
                "needs_lgkd": made.needs_lgkd,
                **({} if address is None else {"pushed": address}),
                "tested": made.tested,
                "accuracies": {file: asdict(found) for file, found in made.accuracies.items()},
                "calibrated_on": made.calibrated,
            }
        )
        return
    show_pairs({"folder": made.folder, "compared on": f"{made.images} images of {made.source}"})
    console().print()
    titles = ["file", "bytes", "largest difference of a logit"]
    cells = {
        file: [f"{(made.folder / file).stat().st_size:,}", f"{difference:.1e}"]
        for file, difference in made.differences.items()
    }
    if made.accuracies:
        titles += made.accuracies["student"].TITLES
        cells = {"student": ["", ""], **cells}
        for file, row in cells.items():
            found = made.accuracies.get(file)
            row += [""] * 3 if found is None else [f"{share:.2%}" for share in asdict(found).values()]
    show_table("", titles, ((file, *row) for file, row in cells.items()), right=range(1, len(titles)))
    if made.accuracies:
        about = f", int8 calibrated on {made.calibrated:,} training images" if made.calibrated else ""
        same = made.accuracies["student"].SAME
        console().print(f"accuracy on {made.tested:,} test images; {same}{about}")
    if not quiet:
        console().print()
        console().print(f"How to use them: {made.folder / CARD}")
    if address is not None:
        console().print(f"pushed as {address}; use it as hf:{repository}")


def _pushed(folder: Path, repository: str, run: Path, *, public: bool) -> str:
    data = read_run(run)["dataset"]["path"]
    private = [run.resolve(), folder.resolve(), *([Path(data)] if isinstance(data, str) else [])]
    return push(folder, repository, public=public, private_paths=private)
