"""The commands, in the order in which people need them."""

from typing import Annotated

import typer

from lgkd import __version__
from lgkd.cli import (
    arrange,
    bench,
    cache_teacher,
    catalogue,
    check,
    compare,
    doctor,
    evaluate,
    export,
    import_teacher,
    inspect,
    predict,
    quickstart,
    report,
    reproduce,
    train,
)

_EXAMPLES = """\b
Examples:
  lgkd quickstart
  lgkd train-teacher resnet56 cifar100
  lgkd distill --student pvtv2 --teacher resnet56
  lgkd train --student pvtv2
  lgkd resume runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0
  lgkd evaluate runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0
  lgkd compare runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance
  lgkd reproduce cifar100-10pct-methods
  lgkd report runs/guided --baseline runs/unguided
  lgkd predict runs/guided photos/
  lgkd export runs/guided
  lgkd inspect runs/guided --baseline runs/unguided --out inspected
  lgkd cache-teacher --student pvtv2 --teacher resnet56
  lgkd import-teacher resnet56 model.pth --sha256 HEX --normalize imagenet
  lgkd check pictures/
  lgkd arrange tiny-imagenet tiny-imagenet-200.zip
  lgkd layers pvtv2
  lgkd doctor
  lgkd bench --student pvtv2 --teacher resnet56
  lgkd students deit_tiny
  lgkd teachers
  lgkd datasets cifar100
  lgkd recipes locality-guidance

Exit codes: 0 done, 2 bad input, 3 something needed is not here, 4 the training went bad,
5 another process holds the folder, 75 paused by --max-time, 130 or 143 stopped by a signal
(both saved; the same command goes on), 1 a fault of lgkd."""

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, epilog=_EXAMPLES)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lgkd {__version__}")
        raise typer.Exit


@app.callback()
def lgkd(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Knowledge distillation centred on locality guidance.

    A small CNN guides a Vision Transformer that learns the same few images from
    scratch. Start with: lgkd quickstart
    """


app.command("quickstart", short_help="See the whole idea at work in minutes, on embedded digits.")(
    quickstart.quickstart
)
app.command("train-teacher")(train.train_teacher)
app.command("distill", short_help="Train a student that a frozen teacher guides.")(train.distill)
app.command("train")(train.train)
app.command("resume")(train.resume)
app.command("evaluate", short_help="Score a student on test or labelled images.")(evaluate.evaluate)
app.command("compare", short_help="Put runs side by side: mean, spread, interval.")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.command("predict")(predict.predict)
app.command("export", short_help="Write a student in formats that need no lgkd.")(export.export)
app.command("cache-teacher")(cache_teacher.cache_teacher)
app.command("import-teacher")(import_teacher.import_teacher)
app.command("check")(check.check)
app.command("arrange")(arrange.arrange)
app.command("doctor")(doctor.doctor)
app.command("layers")(evaluate.layers)
app.command("bench")(bench.bench)
app.command("students")(catalogue.students)
app.command("teachers")(catalogue.teachers)
app.command("datasets")(catalogue.datasets)
app.command("recipes")(catalogue.recipes)
