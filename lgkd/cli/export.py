"""Implement `lgkd export`."""

from pathlib import Path
from typing import Annotated

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json, show_pairs, show_table
from lgkd.data.sources.download import is_offline
from lgkd.deploy.inference.image_files import find_images
from lgkd.deploy.options import CARD, choose_formats, export_folder
from lgkd.deploy.push import check_push, push
from lgkd.errors import InputError
from lgkd.runs.folder import read_run, read_student


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", autocompletion=completion.runs)],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="safetensors, onnx or torch-export; may be repeated; by default all."
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
    data_dir: o.DataDir = None,
    offline: o.Offline = False,
    use: o.Use = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Export a student to formats that need no lgkd.

    With its classes, its preprocessing and a model card. Every file is compared with
    the student on real images; if a logit differs by more than 1e-4, nothing is written.

    Example: lgkd export runs/mine --format onnx --out mine-onnx
    """
    o.bring_in(use)
    display = Display("export", quiet=quiet or as_json)
    if repository is not None:
        formats = [*check_push(repository, formats, offline=is_offline(offline))]
    elif public:
        raise InputError("--public is about the repository of --push, expected both; name one by --push OWNER/NAME")
    choose_formats(formats, lambda _: None)
    read_run(run)
    read_student(run)
    export_folder(run, out)
    given = None if images is None else find_images(images, fault=display.say)
    from lgkd import api

    made = api.export(
        run, out, formats=formats, images=given, data_dir=data_dir, say=display.say, progress=display.decoded
    )
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
            }
        )
        return
    show_pairs({"folder": made.folder, "compared on": f"{made.images} images of {made.source}"})
    console().print()
    show_table(
        "",
        ("file", "bytes", "largest difference of a logit"),
        (
            (file, f"{(made.folder / file).stat().st_size:,}", f"{difference:.1e}")
            for file, difference in made.differences.items()
        ),
        right=(1, 2),
    )
    if not quiet:
        console().print()
        console().print(f"How to use them: {made.folder / CARD}")
    if address is not None:
        console().print(f"pushed as {address}; use it as hf:{repository}")


def _pushed(folder: Path, repository: str, run: Path, *, public: bool) -> str:
    data = read_run(run)["dataset"]["path"]
    private = [run.resolve(), folder.resolve(), *([Path(data)] if isinstance(data, str) else [])]
    return push(folder, repository, public=public, private_paths=private)
