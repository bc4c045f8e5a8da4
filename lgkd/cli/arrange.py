"""Implement `lgkd arrange`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json
from lgkd.data.sources.arrange import arrange as lay_out


def arrange(
    name: Annotated[str, typer.Argument(help="tiny-imagenet or chaoyang.")],
    source: Annotated[Path, typer.Argument(help="The publisher's zip archive, or the folder it unpacks to.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of named data sets; the images go to DATA_DIR/NAME.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link the images of a folder instead of copying.")] = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Arrange a publisher's files as an image folder.

    For named sets that lgkd does not download. Lists, counts and names are checked first;
    the folder is created completely or not at all.

    Example: lgkd arrange tiny-imagenet tiny-imagenet-200.zip
    """
    progress = Display("arrange", quiet=quiet or as_json).arranged
    made = lay_out(name, source, data_dir=data_dir, link=link, progress=progress)
    if as_json:
        show_json({**made._asdict(), "folder": str(made.folder)})
        return
    out = console()
    out.print(f"{made.name}: {made.train:,} train and {made.test:,} test images of {made.classes} classes")
    out.print(f"kept in {made.folder}", markup=False)
    if not quiet:
        where = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir is not None else ""
        out.print(f"check it with: lgkd check {made.name}{where}", markup=False)
