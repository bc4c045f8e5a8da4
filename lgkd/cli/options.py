"""Options that mean the same in every command that has them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lgkd.errors import InputError

_WHAT, _HOW, _WHERE = "What is learned", "How it is learned", "Where and how loudly"

Dataset = Annotated[
    str, typer.Option("--dataset", help="A named data set or a folder of images.", rich_help_panel=_WHAT)
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where named data sets lie.", rich_help_panel=_WHAT)
]
Fraction = Annotated[
    float | None,
    typer.Option("--fraction", help="Train on this share of every class, 0 to 1.", rich_help_panel=_WHAT),
]
ImagesPerClass = Annotated[
    int | None,
    typer.Option("--images-per-class", help="Train on so many images of every class.", rich_help_panel=_WHAT),
]
SubsetSeed = Annotated[
    int, typer.Option("--subset-seed", min=0, help="Which of the many such parts.", rich_help_panel=_WHAT)
]
StudentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--student-option", metavar="KEY=VALUE", help="Reaches the constructor: patch_size=4.", rich_help_panel=_WHAT
    ),
]
TeacherOption = Annotated[
    list[str] | None,
    typer.Option("--teacher-option", metavar="KEY=VALUE", help="Reaches the constructor.", rich_help_panel=_WHAT),
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Side of the model's images, in pixels.", rich_help_panel=_WHAT)
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", help="Instead of the recipe's; warm-up keeps its share.", rich_help_panel=_HOW),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Images a step, instead of the recipe's.", rich_help_panel=_HOW)
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=VALUE", help="Change any key of the recipe; may be repeated.", rich_help_panel=_HOW
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of weights, order and augmentation.", rich_help_panel=_HOW)]
Precision = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", rich_help_panel=_HOW)
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; a GPU if there is one.", rich_help_panel=_WHERE),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The run's folder; by default one below runs/.", rich_help_panel=_WHERE)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.", rich_help_panel=_WHERE)]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON, nothing else.", rich_help_panel=_WHERE)]


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """KEY=VALUE words as a dictionary; values are read as YAML scalars, so 4 is a number and true a truth.

    Raises:
        InputError: a word without "=" or with a value that is no scalar.
    """
    from lgkd.recipe.text import read_yaml

    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{option} {pair!r} has no KEY=VALUE form; write it like {option} patch_size=4")
        document = read_yaml(text)
        if document.problems or isinstance(document.values, dict | list) or document.values is None:
            raise InputError(f"{option} {pair!r}: {text!r} is no number, true, false or word")
        values[key] = document.values
    return values
