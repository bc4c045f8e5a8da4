"""Training options of the command line: one table for it, resume, the identity of a run and the report's command.

The Python API has a few more: `lgkd.runner.options`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypedDict, get_args, get_type_hints

from lgkd._internal.text import did_you_mean
from lgkd.config.schema import Recipe
from lgkd.config.values import read_image_size
from lgkd.errors import InputError


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
        words: values by the words that stand for them on the command line, where these differ.
        compared: dotted key of run.json, or of the recipe, under which `lgkd.runs.identity` compares its effect; None
            where it does not change what a training computes.
        parse: reads a value of the command line where its type alone does not; raises ValueError.
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
    words: Mapping[str, Any] | None = None
    compared: str | None = None
    parse: Callable[[str], Any] | None = None

    @property
    def help_line(self) -> str:
        """Return the help of the command line, a sentence."""
        return self.help if self.help is not None else self.about[0].upper() + self.about[1:]

    @property
    def is_place(self) -> bool:
        """Return true if its values on the command line are files or folders."""
        return self.kind is Path or any(word in (self.metavar or "") for word in ("FOLDER", "FILE"))

    def fits(self, value: Any) -> bool:
        """Check that a value of a run.json has the type that `saved_options` gives it."""
        if self.words is not None:
            return isinstance(value, bool | str) and value in self.words.values()
        if self.repeated:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        kinds: dict[Any, Any] = {Path: str, float: int | float}
        return self.kind is not None and isinstance(value, kinds.get(self.kind, self.kind))

    def value_of(self, word: str) -> Any:
        """Return the value that a word of the command line stands for.

        Raises:
            InputError: no word of this option.
        """
        assert self.words is not None
        if word not in self.words:
            raise InputError(f"{self.flag} {word!r} is unknown; {did_you_mean(word, self.words)}")
        return self.words[word]

    def word_of(self, value: Any) -> str:
        """Return the word of the command line that stands for a value."""
        assert self.words is not None
        return next(word for word, meant in self.words.items() if meant is value or meant == value)


COMPILE: Final = MappingProxyType({"auto": None, "blocks": "blocks", "whole": True, "off": False})
"""What is compiled, as typed and as a value; run folders before there were blocks have true and false."""


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
    init: Annotated[str | Path | None, Option(
        "start from trained weights: the folder of a finished run, or a .safetensors file. A classifier of other "
        "classes is drawn anew, positions and patch embeddings are resized; all else has to fit.", Path,
        "Start from the weights of a finished run, or of a .safetensors file.", metavar="RUN|FILE", kept="command",
        compared="init.sha256")]
    with_optimizer: Annotated[bool, Option(
        "with `init`, a run's folder: continue from its last checkpoint, with the optimiser's state, the average of "
        "the weights and the random draws; the learning rate starts again.", bool,
        "With --init RUN: continue from its last checkpoint, optimiser state included.", default=False, kept="command")]
    image_size: Annotated[int | tuple[int, int] | None, Option(
        "side of the model's images, or (height, width), in pixels.", int,
        "Side of the model's images, or HEIGHTxWIDTH, in pixels: 64, 160x320.", metavar="SIZE",
        compared="student.image_size", parse=read_image_size)]
    channels: Annotated[int | None, Option(
        "of the model's images: 3, red, green and blue, or 1, grey levels.", int,
        "Channels of the model's images: 3, or 1 for grey levels.", metavar="1|3", compared="recipe")]
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
    compile: Annotated[bool | Literal["blocks"] | None, Option(
        "true for student, teacher and terms as one graph; \"blocks\" for one transformer block of the student, whose "
        "code serves all that are equal, which compiles in less time and gains less; if not given, on a GPU what the "
        "training is long enough for, and on a CPU by `time` where compiled steps were timed and more of them fit.",
        str, "Compile the whole step, one transformer block for all, or nothing; auto: by the training's length.",
        flag="--compile", metavar="auto|blocks|whole|off", completion="compiled", kept="command", words=COMPILE)]
    cuda_graphs: Annotated[bool, Option(
        "whether the compiled step is recorded and replayed on a GPU, which pays where batches are small.", bool,
        "Replay the compiled step as a recording; for small batches on a GPU.", default=False, kept="command")]
    val_fraction: Annotated[float | None, Option(
        "hold out this share of every class of the training images, and keep the student of the epoch that does best "
        "on them; the test split selects nothing. A split `val` of the data set is used in the same way without this; "
        "0 selects nothing.", float,
        "Hold out this share and keep the epoch that does best on it; 0: none, nor a split val.", kept="command",
        compared="dataset.val_images")]
    stored_side: Annotated[str | int | None, Option(
        "keep the decoded training images this small: pixels of the shorter side, or \"auto\" for those that the views "
        "need. Larger images give slightly other results than when they are kept whole, and take less memory; test "
        "images stay whole.", str, "Keep training images this small: auto, or pixels of the shorter side.",
        metavar="auto|PIXELS", kept="command", compared="dataset.stored_side")]
    groups: Annotated[str | None, Option(
        "hold out whole groups of images (a patient, a smear, a slide): `level:N`, the folder at that level below the "
        "class, `name:REGEX`, its first group in the file's name, or `csv:FILE`, a table of path,group. For "
        "`val_fraction`, and the test split of a folder that has none.", str,
        "Hold out whole groups: level:N (a folder below the class), name:REGEX or csv:FILE.", metavar="GROUPS",
        kept="command", compared="dataset.groups")]
    folds: Annotated[int | None, Option(
        "cross-validation with so many folds, equal parts of every class drawn by `subset_seed`: each training has "
        "one fold for its test split and the others to train on. Folds are of all images of a folder without a test "
        "split, else of the training split. With `groups` no group is divided.", int,
        "Cross-validation: train once for each of so many folds, tested on it.", kept="command",
        compared="dataset.subset")]
    fold: Annotated[int | None, Option(
        "the fold to test on, 1 to `folds`.", int, "With --folds, train for this fold alone, 1 to the number of folds.",
        kept="command", compared="dataset.subset")]
    select_by: Annotated[str | None, Option(
        "with `val_fraction`, the metric on the held-out images that chooses the epoch: top1, balanced_accuracy or "
        "macro_f1, in which every class counts alike; top1 if not given. Of several labels an image map, micro_f1, "
        "macro_f1 or exact_match; map if not given.", str,
        "Metric that chooses the epoch with --val-fraction: top1, balanced_accuracy or macro_f1; top1 if not given; of "
        "several labels an image map, micro_f1, macro_f1 or exact_match.",
        completion="selecting_metrics", kept="command", compared="select_by")]
    patience: Annotated[int | None, Option(
        "end the training after so many evaluations in a row without improvement on the held-out images of "
        "`val_fraction`, by the metric of `select_by`: the recipe's `early_stopping.patience`.", int,
        "With --val-fraction: stop after so many evaluations without improvement on the held-out images.",
        metavar="N", compared="recipe.early_stopping")]
    leave_out_near_copies: Annotated[bool, Option(
        "do not train on images that are nearly a test image or an earlier training image, as `lgkd check` finds them; "
        "the test split stays whole.", bool, "Do not train on near copies of test or other training images.",
        default=False, kept="command", compared="dataset.near_copies_left_out")]
    teacher_weights: Annotated[str | Path | Sequence[str | Path] | None, Option(
        'weights of a teacher timm:NAME that was trained on other images, which guides by its maps: "pretrained" for '
        "timm's own, which are downloaded, or a .safetensors file; one for each such teacher.", str,
        "Weights of a teacher timm:NAME, of other classes: pretrained, or a file.", repeated=True,
        metavar="FILE|pretrained", kept="command")]
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
