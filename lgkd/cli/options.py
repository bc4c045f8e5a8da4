"""Options that mean the same in every command that has them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lgkd.cli import completion
from lgkd.config.registry import import_terms
from lgkd.errors import InputError
from lgkd.models.trust import trust

Dataset = Annotated[
    str, typer.Option("--dataset", help="A named data set or a folder of images.", autocompletion=completion.datasets)
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where named data sets lie.")]
Fraction = Annotated[
    float | None,
    typer.Option("--fraction", help="Train on this share of every class, 0 to 1."),
]
ImagesPerClass = Annotated[
    int | None,
    typer.Option("--images-per-class", help="Train on so many images of every class."),
]
SubsetSeed = Annotated[int, typer.Option("--subset-seed", help="Which of the many such parts.")]
Extra = Annotated[
    Path | None,
    typer.Option("--extra", metavar="FOLDER", help="More training images, as FOLDER/CLASS/*, such as generated ones."),
]
ExtraShare = Annotated[
    float | None,
    typer.Option("--extra-share", help="Share of every batch that they make up, 0 to 1; 0.5 if not given."),
]
StudentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--student-option", metavar="KEY=VALUE", help="Reaches the constructor: patch_size=4; may be repeated."
    ),
]
TeacherOption = Annotated[
    list[str] | None,
    typer.Option("--teacher-option", metavar="KEY=VALUE", help="Reaches the constructor."),
]
ImageSize = Annotated[int | None, typer.Option("--image-size", help="Side of the model's images, in pixels.")]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", help="Instead of the recipe's; warm-up keeps its share."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images a step, instead of the recipe's.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change any key of the recipe; may be repeated."),
]
Use = Annotated[
    list[str] | None,
    typer.Option("--use", metavar="MODULE", help="Import your module, for its losses and models; may be repeated."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of weights, order and augmentation.")]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="A,B,C", help="A run with each seed: mean, spread and 95% interval."),
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", autocompletion=completion.precisions)
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="One compiled graph a step; by default on a GPU, for long trainings."),
]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="Replay the compiled step as a recording; for small batches on a GPU.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; a GPU if there is one."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same bits again on a GPU, slower. On a CPU they are anyway."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder; by default one below runs/.")]
ValFraction = Annotated[
    float | None,
    typer.Option("--val-fraction", help="Hold out this share and keep the epoch that does best on it."),
]
LeaveOut = Annotated[
    bool,
    typer.Option("--leave-out-near-copies", help="Do not train on near copies of test or other training images."),
]
MaxTime = Annotated[
    float | None,
    typer.Option("--max-time", metavar="SECONDS", help="Save and end with code 75; the same command goes on."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Go on with an unfinished run that differs.")]
Nproc = Annotated[
    int | None,
    typer.Option("--nproc", metavar="N", help="Train in N processes on this machine: one a GPU, or parts of the CPU."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do and what it would take; do nothing.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Tell tensorboard, wandb, ... of every epoch; may be repeated.",
        autocompletion=completion.trackers,
    ),
]
Report = Annotated[bool, typer.Option("--report", help="Write report.html at the end, as `lgkd report` does.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON, nothing else.")]


def bring_in(modules: list[str] | None) -> None:
    """What `--use` names: imported, and from then on files may name what is in it.

    Raises:
        InputError: one cannot be imported.
    """
    import_terms(modules)
    trust(*(modules or ()))


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """KEY=VALUE words as a dictionary; values are read as YAML scalars, so 4 is a number and true a truth.

    Raises:
        InputError: a word without "=" or with a value that is no scalar.
    """
    from lgkd.config.yaml_io import read_yaml

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
