"""The commands, in the order in which people need them. A command's module is imported when it is named."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lgkd import __version__

COMMANDS = {
    "quickstart": ("quickstart", "See the whole idea at work in minutes, on embedded digits."),
    "train-teacher": ("train", "Train a teacher, and keep it for students to come."),
    "distill": ("train", "Train a student that a frozen teacher guides."),
    "train": ("train", "Train a student without a teacher: the baseline."),
    "resume": ("train", "Go on with a run that was stopped."),
    "evaluate": ("evaluate", "Score a student on test or labelled images."),
    "compare": ("compare", "Put runs side by side: mean, spread, interval."),
    "reproduce": ("reproduce", "Run a named experiment, and write what came of it."),
    "report": ("report", "Write a report of a run: one HTML file to pass on."),
    "inspect": ("inspect", "Look into a student: why it works."),
    "predict": ("predict", "Tell the classes of images."),
    "export": ("export", "Write a student in formats that need no lgkd."),
    "cache-teacher": ("cache_teacher", "Write down what a teacher says, for trainings without it."),
    "import-teacher": ("import_teacher", "Make a teacher of published weights."),
    "check": ("check", "Look at every image of a data set before training on it."),
    "arrange": ("arrange", "Lay out a publisher's files as an image tree."),
    "doctor": ("doctor", "Say what this machine has and lacks."),
    "layers": ("evaluate", "List a model's layers that can be tapped."),
    "bench": ("bench", "Measure how fast a training is and what it costs."),
    "students": ("catalogue", "List the students known by name, or show one."),
    "teachers": ("catalogue", "List architectures and trained teachers, or show one."),
    "datasets": ("catalogue", "List the data sets known by name, or show one."),
    "recipes": ("catalogue", "List the recipes, or show one."),
}
"""For each command the module of `lgkd.cli` with the function of its name, and one line of help."""

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


def load_command(name: str) -> Any:
    """Import a command's module and build the command with all its options."""
    module, help_line = COMMANDS[name]
    function = getattr(import_module(f"lgkd.cli.{module}"), name.replace("-", "_"))
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, short_help=help_line)(function)
    return typer.main.get_command(single)


class LazyGroup(TyperGroup):
    """Know the commands by name and one line of help; import one when it is run or its options are completed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, short_help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the named command's name, the command itself, and the other words."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=_EXAMPLES)


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
