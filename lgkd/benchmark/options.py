"""Check the options of a bench, in names and numbers; no torch, so that a wrong choice is reported at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lgkd._internal.text import did_you_mean
from lgkd.config import Recipe
from lgkd.config.optimizer import SCHEDULE_FREE
from lgkd.config.terms import SECTIONS
from lgkd.errors import InputError
from lgkd.models.registry import find
from lgkd.runner.resolve import check_dataset, resolve_recipe

CLASSES = 100
"""Side of made images, in pixels."""

SWEPT = {"batch-size": "batch_size", "image-size": "image_size", "images": "images"}
"""Options that a sweep can vary, as typed and as an attribute of `Choices`."""

_FREE = {"weight": 2.5, "name": None}
_LOCALITY = SECTIONS["locality"](kind="locality", weight=2.5)


@dataclass(frozen=True)
class Choices:
    """Describe one bench: a guided student, an unguided one, or a teacher in its own training.

    Neither a data set nor a trained teacher is needed: by default images are made, and the guiding teacher is
    always an untrained one, whose arithmetic is that of a trained one.

    Attributes:
        student, teacher: names; both for a guided student, one of them for a training without a guide.
        student_options: reach the student's constructor.
        dataset: a named data set or a folder; None for made images.
        data_dir: folder of named data sets.
        recipe: a shipped name or a YAML file; None for the one that fits.
        image_size, batch_size, precision: instead of the recipe's.
        overrides: "a.b=value" each.
        device: "cpu", "cuda" or "cuda:N"; None for a GPU if there is one.
        compile: what of the step is compiled, as for a training; None: what a training would compile.
        cuda_graphs: whether the compiled step is recorded and replayed.
        images, source_size: number of made images, and their side in pixels.
        seed: of images and weights.

    Raises:
        InputError: an option is out of range or does not fit the others.
    """

    student: str | None = None
    teacher: str | None = None
    student_options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    data_dir: str | None = None
    recipe: str | None = None
    image_size: int | tuple[int, int] | None = None
    batch_size: int | None = None
    precision: str | None = None
    overrides: Sequence[str] = ()
    device: str | None = None
    compile: bool | Literal["blocks"] | None = None
    cuda_graphs: bool = False
    images: int = 5000
    source_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.student is None and self.teacher is None:
            raise InputError(
                "nothing to measure; name a --student, a --teacher, or both for a guided student, as in "
                "lgkd bench --student deit_tiny --teacher resnet56"
            )
        for name in (self.student, self.teacher):
            if name is not None:
                find(name)
        if self.student_options and self.student is None:
            raise InputError("--student-option reaches a student, and no --student was named")
        if self.dataset is not None:
            check_dataset(self.dataset, self.data_dir)
        for word, value, least in (("--images", self.images, 2), ("--source-size", self.source_size, 8)):
            if value < least:
                raise InputError(f"{word} is {value}, expected at least {least}")
        _ = self.resolved

    @property
    def guided(self) -> bool:
        """Return True if a teacher guides."""
        return self.student is not None and self.teacher is not None

    @property
    def model(self) -> str:
        """Return the name of the trained model."""
        name = self.student if self.student is not None else self.teacher
        assert name is not None
        return name

    @property
    def recipe_name(self) -> str:
        """Return the recipe that was named, or the one that fits."""
        if self.recipe is not None:
            return self.recipe
        if self.student is None:
            return "teacher"
        return "locality-guidance" if self.guided else "supervised"

    @cached_property
    def resolved(self) -> Recipe:
        """Return the recipe with every choice put in."""
        return resolve_recipe(
            self.recipe_name,
            trains="student" if self.student is not None else "teacher",
            guided=self.guided,
            batch_size=self.batch_size,
            image_size=self.image_size,
            precision=self.precision,
            overrides=self.overrides,
        )

    def about(self) -> dict[str, Any]:
        """Return the choices for the JSON document."""
        return asdict(self) | {"recipe": self.recipe_name, "overrides": list(self.overrides)}


def check_plain(choices: Choices) -> None:
    """Check that the plain loop has the settings of a recipe: those of the shipped recipes, and no more.

    Raises:
        InputError: the recipe asks for something else.
    """
    recipe = choices.resolved
    guide = recipe.guide
    terms = guide.terms if guide is not None else ()
    problem = None
    if recipe.view.channels != 3:
        problem = "view.channels but 3; leave out --channels"
    elif recipe.view.crop != "random-resized":
        problem = f"crop {recipe.view.crop}; add --set view.crop=random-resized"
    elif recipe.ema is not None:
        problem = "ema; add --set ema=null"
    elif recipe.sam is not None:
        problem = "sam; add --set sam=null"
    elif recipe.optimizer.name == SCHEDULE_FREE:
        problem = f"optimizer.name {SCHEDULE_FREE}; add --set optimizer.name=adamw"
    elif recipe.accumulate > 1:
        problem = "accumulate; add --set accumulate=1"
    elif recipe.class_weights != "none" or recipe.sampler != "shuffled" or recipe.logit_adjustment:
        problem = "class_weights, sampler: balanced or logit_adjustment; leave them at their defaults"
    elif guide is not None and (guide.classification_weight != 1 or guide.view != "resized"):
        problem = "guide.classification_weight but 1 and no guide.view but resized; set them so"
    elif len(terms) > 1 or any(term.model_copy(update=_FREE) != _LOCALITY for term in terms):
        problem = "terms other than one linear locality term; use the recipe locality-guidance"
    if problem is not None:
        raise InputError(f"--against plain: the plain loop knows no {problem}")


def read_sweep(text: str) -> tuple[str, list[int]]:
    """Parse `batch-size=32,64` as the attribute that varies and its values, in ascending order.

    Raises:
        InputError: another form, or something that cannot be swept.
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--sweep {text!r} has no NAME=VALUES form; write it like --sweep batch-size=32,64,128")
    if name not in SWEPT:
        raise InputError(f"--sweep cannot vary {name!r}; {did_you_mean(name, SWEPT)}")
    numbers = [value.strip() for value in values.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise InputError(f"--sweep {text!r}: expected whole numbers above 0 with commas between them, like 32,64,128")
    if name == "images" and max(map(int, numbers)) > 1_000_000:
        raise InputError(f"--sweep {text!r}: at most 1,000,000 images are made, in a temporary file")
    return SWEPT[name], sorted({int(number) for number in numbers})


def check_file(file: Path, option: str) -> Path:
    """Check that a file can be written to, before minutes are spent.

    Raises:
        InputError: it is a folder, or its folder does not exist.
    """
    if file.is_dir():
        raise InputError(f"{option} {file} is a folder, expected the name of a file")
    if not file.parent.is_dir():
        raise InputError(f"{option} {file}: the folder {file.parent} does not exist; make it first")
    return file
