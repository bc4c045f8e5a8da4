"""Declare the options shared by several commands; those of a training are made from `config.options`."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from lgkd.cli import completion
from lgkd.config.options import Option
from lgkd.config.registry import import_terms
from lgkd.errors import InputError
from lgkd.models.trust import trust
from lgkd.runner.options import OPTIONS

END = "the end"
Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True)
class Before:
    """Place a command's own parameter in `--help` before a training option; without one it comes first."""

    option: str


def with_options(
    *, only: Collection[str] = tuple(OPTIONS), without: Collection[str] = (), **defaults: Any
) -> Callable[[Command], Command]:
    """Add training options to a command, which takes them as `**options: Unpack[Options]`.

    The signature that typer reads is made from the table `lgkd.runner.options.OPTIONS`, in its order; the command's own
    parameters are placed by `Before`.

    Args:
        only: names of options; by default all that the command line has.
        without: names of options that the command lacks.
        defaults: of options whose default depends on the command.
    """
    order = [*OPTIONS, END]

    def decorate(command: Command) -> Command:
        own = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        placed = [(_place(parameter, order), parameter) for parameter in own]
        for name, option in OPTIONS.items():
            if option.kind is not None and name in only and name not in without:
                placed.append((order.index(name) + 0.5, _parameter(name, option, defaults.get(name, option.default))))
        parameters = [parameter for _, parameter in sorted(placed, key=lambda one: one[0])]
        keyword_only = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
        command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        return command

    return decorate


def training_option(name: str) -> Any:
    """Make typer's declaration of a training option from the table."""
    option = OPTIONS[name]
    return typer.Option(
        option.flag or "--" + name.replace("_", "-"),
        help=option.help_line,
        metavar=option.metavar,
        callback=_by_word(option) if option.words is not None else None,
        parser=None if option.parse is None else read_option(option.parse),
        autocompletion=getattr(completion, option.completion) if option.completion is not None else None,
    )


def _by_word(option: Option) -> Callable[[str | None], Any]:
    def value(word: str | None) -> Any:
        return option.value_of(word) if word is not None else None

    return value


def read_option(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Wrap a parser so that typer reports what it expects; a value that was parsed already passes."""

    def read(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except ValueError:
            raise typer.BadParameter("expected pixels like 64, or HEIGHTxWIDTH like 160x320") from None

    return read


def _place(parameter: inspect.Parameter, order: list[str]) -> float:
    places = [order.index(one.option) for one in get_args(parameter.annotation) if isinstance(one, Before)]
    return places[0] if places else -1


def _parameter(name: str, option: Option, default: Any) -> inspect.Parameter:
    assert option.kind is not None
    kind: Any = list[option.kind] if option.repeated else option.kind  # type: ignore[name-defined]
    kind = kind if default is not None else kind | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, training_option(name)]
    )


SeriesFolders = Annotated[
    list[Path],
    typer.Argument(metavar="RUN", help="Folders of runs, or of several seeds.", autocompletion=completion.runs),
]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="RUN", help="Compare all others with this one.", autocompletion=completion.runs),
]
TestImages = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Images to evaluate on, such as a folder of CLASS folders; by default its own test split.",
        autocompletion=completion.datasets,
    ),
]
Student = Annotated[
    str,
    typer.Option(
        "--student",
        help="A name of `lgkd students`, timm:NAME or module:factory.",
        autocompletion=completion.students,
    ),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="A trained teacher of this data set; may be repeated.",
        show_default="resnet56",
        autocompletion=completion.trained_teachers,
    ),
]
StudentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--student-option", metavar="KEY=VALUE", help="Passed to the constructor: patch_size=4; may be repeated."
    ),
    Before("image_size"),
]
TeacherOption = Annotated[
    list[str] | None,
    typer.Option("--teacher-option", metavar="KEY=VALUE", help="Passed to the model constructor."),
    Before("image_size"),
]
Taps = Annotated[
    str | None,
    typer.Option(
        "--taps",
        metavar="A,B,C",
        help="Layers of the student, by default three blocks; or pairs STUDENT:TEACHER, as blocks.0:group1.",
    ),
    Before("recipe"),
]
Use = Annotated[
    list[str] | None,
    typer.Option("--use", metavar="MODULE", help="Import your module, for its losses and models; may be repeated."),
    Before("seed"),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="A,B,C", help="Train with each seed: mean, spread and 95% interval."),
    Before("precision"),
]
Report = Annotated[
    bool,
    typer.Option("--report", help="Write report.html at the end, as `lgkd report` does."),
    Before("track"),
]
Nproc = Annotated[
    int | None,
    typer.Option("--nproc", metavar="N", help="Train in N processes on this machine: one a GPU, or parts of the CPU."),
    Before("out"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and an estimate of the cost; train nothing."), Before("force")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result."), Before(END)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else."), Before(END)]

# Training options of commands that list their parameters themselves; a parameter has to declare its type.
DataDir = Annotated[Path | None, training_option("data_dir")]
ImageSize = Annotated[Any, training_option("image_size")]
BatchSize = Annotated[int | None, training_option("batch_size")]
Set = Annotated[list[str] | None, training_option("overrides")]
Seed = Annotated[int, training_option("seed")]
Precision = Annotated[str | None, training_option("precision")]
Compile = Annotated[str | None, training_option("compile")]
CudaGraphs = Annotated[bool, training_option("cuda_graphs")]
Device = Annotated[str | None, training_option("device")]
Offline = Annotated[bool, training_option("offline")]
MaxTime = Annotated[float | None, training_option("max_time")]
Track = Annotated[list[str] | None, training_option("track")]
Force = Annotated[bool, training_option("force")]


def bring_in(modules: list[str] | None) -> None:
    """Import the modules of `--use`, which makes their names trusted in files.

    Raises:
        InputError: a module cannot be imported.
    """
    import_terms(modules)
    trust(*(modules or ()))


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Parse KEY=VALUE words to a dictionary; values are read as YAML scalars, so 4 is a number and true a bool.

    Raises:
        InputError: a word has no "=", or a value that is not a scalar.
    """
    from lgkd.config.yaml_io import read_yaml

    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{option} {pair!r} is not KEY=VALUE; write it like {option} patch_size=4")
        document = read_yaml(text)
        if document.problems or isinstance(document.values, dict | list) or document.values is None:
            raise InputError(f"{option} {pair!r}: {text!r} is not a number, true, false or word")
        values[key] = document.values
    return values


def takes_dataset(
    default: str | None = None, *, required: bool = False, about: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take its `dataset` as an argument or as `--dataset`; outermost of its decorators.

    Args:
        default: without either.
        required: refuse a command without either.
        about: help of the argument, where it is not the usual one.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def merged(*, dataset: str | None = None, dataset_option: str | None = None, **rest: Any) -> None:
            if dataset is not None and dataset_option is not None and dataset != dataset_option:
                raise InputError(
                    f"the data set is {dataset} as an argument and {dataset_option} by --dataset; give one of them"
                )
            chosen = next((one for one in (dataset_option, dataset) if one is not None), default)
            if chosen is None and required:
                name = command.__name__.replace("_", "-")
                raise InputError(
                    f"no data set is given, expected a folder of images or a name of `lgkd datasets`; write it like "
                    f"lgkd {name} photos/"
                )
            command(dataset=chosen, **rest)

        signature = inspect.signature(command)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name == "dataset":
                argument = typer.Argument(
                    help=about or "A named data set, a folder of images, a table of labels, or hf:OWNER/NAME.",
                    show_default=default or False,
                    autocompletion=completion.datasets,
                )
                option = typer.Option("--dataset", help="The same, as an option.", autocompletion=completion.datasets)
                for name, kind in (("dataset", argument), ("dataset_option", option)):
                    annotation: Any = Annotated[str | None, kind]
                    parameters.append(parameter.replace(name=name, default=None, annotation=annotation))
            else:
                parameters.append(parameter)
        keyword_only = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
        merged.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
        merged.__annotations__ = {key: one for key, one in command.__annotations__.items() if key != "dataset"}
        return merged

    return decorate
