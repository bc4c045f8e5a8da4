"""Implement `lgkd serve`."""

from pathlib import Path
from typing import Annotated

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.requirements import check_server_is_here

_OPEN = (
    "everybody who reaches this machine at {host} can use the server: there is no password, and nothing is encrypted"
)


def serve(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a finished run or of an export, a student.onnx, or hf:OWNER/NAME.",
            autocompletion=completion.runs,
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="Name or address to bind to; by default this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes any free one.")] = 8000,
    device: o.Device = None,
    offline: o.Offline = False,
    use: o.Use = None,
    quiet: o.Quiet = False,
) -> None:
    """Serve a page that classifies images, and JSON for programs.

    Needs the extra `serve`. Drop an image on the page to see its classes and the parts
    that they were read from. Nothing is stored. Ctrl-C stops the server.

    Example: lgkd serve runs/mine --port 8080
    """
    check_server_is_here()
    o.bring_in(use)
    place = find_source(source, offline=offline)
    from lgkd.deploy.serve.guard import is_loopback
    from lgkd.deploy.serve.run import bind

    bound = bind(host, port)
    with bound:
        from lgkd.deploy.inference.load import open_source
        from lgkd.deploy.serve.predictor import Predictor
        from lgkd.deploy.serve.run import serve as run
        from lgkd.training.precision import choose_device

        display = Display("serve", quiet=quiet)
        opened = open_source(place, device=choose_device(device))
        if not is_loopback(host):
            display.say(_OPEN.format(host=host))
        name = place.folder.resolve().name
        run(Predictor(opened, name), bound, host, ready=lambda where: console().print(f"{where}  Ctrl-C stops it"))
    display.say("stopped")
