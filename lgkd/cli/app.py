"""List the commands in the order of use. A command's module is imported when the command is named."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lgkd import __version__

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train": {
        "quickstart": ("quickstart", "Run the whole method in minutes, on embedded digits."),
        "fit": ("fit", "Fit a folder of images within a time."),
        "train-teacher": ("train", "Train a teacher and store it for later distillation."),
        "distill": ("train", "Train a student guided by a frozen teacher."),
        "train": ("train", "Train a student without a teacher, as a baseline."),
        "resume": ("train", "Resume a stopped run from its last checkpoint."),
        "sweep": ("sweep", "Search settings of a recipe on held-out images."),
        "reproduce": ("reproduce", "Run a named experiment and write its results."),
    },
    "Measure and explain": {
        "evaluate": ("evaluate", "Evaluate a student on test or labelled images."),
        "compare": ("compare", "Compare runs: mean, spread, confidence interval."),
        "report": ("report", "Write a report of a run as one HTML file."),
        "inspect": ("inspect", "Analyse a student: attention, CKA, robustness."),
        "probe": ("probe", "Probe frozen features: nearest neighbours, linear."),
        "robustness": ("robustness", "Measure runs under corruptions: accuracy, drop, mCE."),
    },
    "Use a trained student": {
        "predict": ("predict", "Classify images with a trained student."),
        "serve": ("serve", "Serve a page that classifies images, and JSON for programs."),
        "prune": ("prune", "Remove a student's least important heads and MLP units."),
        "export": ("export", "Export a student to formats that need no lgkd."),
    },
    "Teachers and images": {
        "import-teacher": ("import_teacher", "Import published weights as a teacher."),
        "cache-teacher": ("cache_teacher", "Cache a teacher's outputs, to train without the teacher."),
        "check": ("check", "Check every image of a data set before training."),
        "arrange": ("arrange", "Arrange a publisher's files as an image folder."),
    },
    "Look up": {
        "doctor": ("doctor", "Check the installation and the machine."),
        "bench": ("bench", "Measure the speed and the cost of a training."),
        "layers": ("evaluate", "List the layers of a model that can be tapped."),
        "students": ("catalogue", "List the named students, or show one."),
        "teachers": ("catalogue", "List architectures and trained teachers, or show one."),
        "datasets": ("catalogue", "List the named data sets, or show one."),
        "recipes": ("catalogue", "List the recipes, or show one."),
    },
}
"""List the commands under the headings of the help: each with its module of `lgkd.cli` and one line of help."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
"""Map each command to the module of `lgkd.cli` with its function, and to one line of help."""

_EXAMPLES = """\b
Examples, and in the help of each command one more:
  lgkd quickstart
  lgkd fit photos/ --time 1h --baseline
  lgkd train-teacher resnet56 cifar100
  lgkd distill --student pvtv2 --teacher resnet56
  lgkd compare runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance
  lgkd predict runs/guided photos/

Exit codes: 0 done, 2 bad input, 3 something needed is missing, 4 the loss was not finite,
5 another process holds the folder, 75 paused by --max-time, 130 or 143 stopped by a signal
(both saved; run the same command again to resume), 1 a bug in lgkd."""


def load_command(name: str) -> Any:
    """Import a command's module and build the command with all its options."""
    module, help_line = COMMANDS[name]
    function = getattr(import_module(f"lgkd.cli.{module}"), name.replace("-", "_"))
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, short_help=help_line)(function)
    return typer.main.get_command(single)


class LazyGroup(TyperGroup):
    """Hold the commands by name and one line of help; import one when it is run or its options are completed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, short_help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the named command's name, the command itself, and the remaining words."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands under their headings, descriptions aligned over all of them."""
        # Definition lists are aligned each by itself; a name padded to the longest aligns them all.
        longest = max(map(len, COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(longest), line) for name, (_, line) in commands.items()])


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
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; in any position.")] = False,
) -> None:
    """Knowledge distillation centred on locality guidance.

    A small CNN guides a Vision Transformer that learns the same few images from
    scratch. Start with: lgkd quickstart
    """
