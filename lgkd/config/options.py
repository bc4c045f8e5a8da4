"""Training options of the command line: one table for it, resume, the identity of a run and the report's command.

The Python API has a few more: `lgkd.runner.options`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypedDict, get_args, get_type_hints

from lgkd.config.schema import Recipe


@dataclass(frozen=True)
class Option:
    """Describe one option of a training.

    Attributes:
        about: the option in the Python API.
        kind: type of its value on the command line; None for an option of the Python API alone.
        help: on the command line, where it is not `about`.
        default: on the command line; `Options` has no defaults, an option that is not given is absent.
        repeated: whether it may be given several times; its value is then a list.
        flag: on the command line, where it is not its name.
        metavar: of the value in `--help`, where it is not that of its type.
        completion: name of the function in `lgkd.cli.completion` that completes a value.
        kept: "run": run.json keeps it under `call.options`, for `lgkd resume`; "command": it is also part of the
            command that the report prints.
        compared: dotted key of run.json, or of the recipe, under which `lgkd.runs.identity` compares its effect; None
            where it does not change what a training computes.
    """

    about: str
    kind: type | None = None
    help: str | None = None
    default: Any = None
    repeated: bool = False
    flag: str | None = None
    metavar: str | None = None
    completion: str | None = None
    kept: Literal["", "run", "command"] = ""
    compared: str | None = None

    @property
    def help_line(self) -> str:
        """Return the help of the command line, a sentence."""
        return self.help if self.help is not None else self.about[0].upper() + self.about[1:]

    def fits(self, value: Any) -> bool:
        """Check that a value of a run.json has the type that `saved_options` gives it."""
        if self.repeated:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        kinds: dict[Any, Any] = {Path: str, float: int | float}
        return self.kind is not None and isinstance(value, kinds.get(self.kind, self.kind))


class CommandOptions(TypedDict, total=False):
    """Declare the options that the commands `train-teacher`, `train` and `distill` share with the Python API."""

    # fmt: off
    data_dir: Annotated[str | Path | None, Option("where named data sets are stored.", Path)]
    fraction: Annotated[float | None, Option(
        "train on this share of every class, 0 to 1.", float, kept="command", compared="dataset.subset")]
    images_per_class: Annotated[int | None, Option(
        "train on so many images of every class.", int, kept="command", compared="dataset.subset")]
    subset_seed: Annotated[int, Option(
        "seed of the subset; the same for all seeds unless given.", int, default=0, kept="command",
        compared="dataset.subset")]
    extra: Annotated[str | Path | None, Option(
        "a folder CLASS/* of more training images, such as generated ones; its classes are the data set's or some of "
        "them.", Path, "More training images, as FOLDER/CLASS/*, such as generated ones.", metavar="FOLDER",
        kept="command", compared="dataset.extra.fingerprint")]
    extra_share: Annotated[float | None, Option(
        "of every batch that comes from `extra`, between 0 and 1; 0.5 if not given. An epoch is one pass over the data "
        "set's own images.", float, "Share of every batch that they make up, 0 to 1; 0.5 if not given.",
        kept="command", compared="dataset.extra.share")]
    image_size: Annotated[int | None, Option(
        "side of the model's images, in pixels.", int, compared="student.image_size")]
    recipe: Annotated[str | Path | Recipe, Option(
        "a shipped name, a YAML file, or a `Recipe`.", str, "A shipped recipe or a YAML file.", completion="recipes",
        compared="recipe")]
    epochs: Annotated[int | None, Option("instead of the recipe's; warm-up keeps its share.", int, compared="epochs")]
    time: Annotated[str | float | None, Option(
        'seconds, or text such as "45m" or "2h", that one training may take, start-up and evaluations included: a few '
        "steps are timed, and the number of steps is chosen to fit, instead of the recipe's epochs.", str,
        "Choose the number of steps for a training of this time: 90s, 45m, 2h.", metavar="TIME", compared="recipe")]
    batch_size: Annotated[int | None, Option(
        "images a step, instead of the recipe's.", int, compared="recipe.batch_size")]
    overrides: Annotated[Sequence[str], Option(
        '"a.b=value" each, as `--set`; they override everything else.', str,
        "Change any key of the recipe; may be repeated.", repeated=True, flag="--set", metavar="A.B=VALUE",
        compared="recipe")]
    seed: Annotated[int, Option(
        "of weights, order, augmentation and dropout; 0 if not given.", int, "Seed of weights, order and augmentation.",
        default=0, kept="run", compared="seed")]
    precision: Annotated[str | None, Option(
        "number format, instead of the recipe's: auto, fp32, bf16 or fp16.", str, completion="precisions",
        compared="precision")]
    compile: Annotated[bool | None, Option(
        "whether student, teacher and terms are compiled as one graph; if not given, on a GPU where the training is "
        "long enough for that to pay, and on a CPU by `time` where a compiled step was timed and more of them fit.",
        bool, "One compiled graph a step; by default where it pays: on a GPU, or with --time.",
        flag="--compile/--no-compile", kept="command")]
    cuda_graphs: Annotated[bool, Option(
        "whether the compiled step is recorded and replayed on a GPU, which pays where batches are small.", bool,
        "Replay the compiled step as a recording; for small batches on a GPU.", default=False, kept="command")]
    val_fraction: Annotated[float | None, Option(
        "hold out this share of every class of the training images, and keep the student of the epoch that does best "
        "on them; the test split selects nothing.", float,
        "Hold out this share and keep the epoch that does best on it.", kept="command",
        compared="dataset.val_images")]
    leave_out_near_copies: Annotated[bool, Option(
        "do not train on images that are nearly a test image or an earlier training image, as `lgkd check` finds them; "
        "the test split stays whole.", bool, "Do not train on near copies of test or other training images.",
        default=False, kept="command", compared="dataset.near_copies_left_out")]
    cached: Annotated[str | Path | Sequence[str | Path] | None, Option(
        'read the outputs of the teachers from caches of `cache_teacher` and do not run them: "auto" for those in the '
        "store, or a folder for each teacher.", str, "Read the teacher from a cache; auto: from the store.",
        repeated=True, metavar="FOLDER", kept="command", compared="cached")]
    approximate: Annotated[bool, Option(
        "serve from a cache what it can follow only approximately, too, such as mixup; the error against the teacher "
        "itself is reported.", bool, "With --cached, allow what it cannot follow exactly.", default=False,
        kept="command", compared="cached")]
    device: Annotated[str | None, Option(
        "device to train on: cpu, cuda or cuda:N; a GPU if there is one.", str, kept="command")]
    deterministic: Annotated[bool, Option(
        "on a GPU, only algorithms that give the same bits again; slower. A CPU gives them anyway, at an equal number "
        "of threads.", bool, "Bitwise reproducible on a GPU, slower; a CPU is anyway.", default=False, kept="command",
        compared="deterministic")]
    offline: Annotated[bool, Option(
        "download nothing; a data set that is not here is an error.", bool, default=False, kept="run")]
    max_time: Annotated[float | None, Option(
        "save and raise `Paused` after so many seconds; the same call resumes.", float,
        "Save and end with code 75; the same command resumes.", metavar="SECONDS")]
    track: Annotated[Sequence[Any], Option(
        'trackers that receive every epoch: names such as "tensorboard", or objects of your own with a `name` and '
        "`log(values, step=...)`; docs/trackers.md. One that fails is left out and stops nothing.", str,
        "Send every epoch to tensorboard, wandb, ...; may be repeated.", repeated=True, metavar="NAME",
        completion="trackers", kept="run")]
    out: Annotated[str | Path | None, Option(
        "the run's folder; by default one below runs/, named after the choices.", Path)]
    force: Annotated[bool, Option(
        "resume an unfinished run although recipe, data or versions differ.", bool, default=False)]
    # fmt: on


def read_options(declared: type) -> Mapping[str, Option]:
    """Map the names of options to their descriptions, in the order of `--help`."""
    hints = get_type_hints(declared, include_extras=True)
    return MappingProxyType({name: get_args(hint)[1] for name, hint in hints.items()})


def _compared_fields() -> dict[str, Any]:
    options = read_options(CommandOptions)
    fields = [option.compared.partition(".")[0] for option in options.values() if option.compared is not None]
    return {field: options[field].default if field in options else None for field in fields}


COMPARED: Final = MappingProxyType(_compared_fields())
"""Map the fields of run.json that options affect to their values in runs without the option."""
