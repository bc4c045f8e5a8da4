"""The commands, in the order in which people need them."""

import typer

from lgkd.cli import listing, looking, training

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Knowledge distillation centred on locality guidance: a small CNN guides a Vision Transformer "
    "that learns the same few images from scratch. Start with: lgkd quickstart",
    epilog="Exit codes: 0 done, 2 bad input, 3 something needed is not here, 4 the training went bad, "
    "130 or 143 stopped by a signal. --debug shows tracebacks.",
)

app.command("train-teacher")(training.train_teacher)
app.command("distill")(training.distill)
app.command("train")(training.train)
app.command("evaluate")(looking.evaluate)
app.command("layers")(looking.layers)
app.command("students")(listing.students)
app.command("teachers")(listing.teachers)
app.command("datasets")(listing.datasets)
app.command("recipes")(listing.recipes)
