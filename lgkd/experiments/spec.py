"""Define experiments: arms that are trained, their comparisons, and published figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from lgkd.errors import InputError

Scale = Literal["minutes", "2 cores", "full"]
"""Hardware that an experiment needs: minutes on any CPU; two CPU cores; a CUDA GPU."""

Plain = bool | int | float | str


@dataclass(frozen=True)
class Quoted:
    """Represent a published figure. It is never put in a column of measured ones.

    Attributes:
        top1: in percent.
        what: the measurement, and the epoch that counts.
        source: publication or repository.
    """

    top1: float
    what: str
    source: str


@dataclass(frozen=True)
class Early:
    """Represent a published accuracy curve, which shows early if a training is in the right regime.

    Attributes:
        what: the trained model.
        source: publication or repository.
        top1: percent by epoch.
    """

    what: str
    source: str
    top1: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Arm:
    """Define one training of an experiment, repeated with every seed.

    Attributes:
        key: names its folder; also accepted by `--arms`.
        label: in tables.
        model: a student, or for `role="teacher"` a teacher, as the catalogues name them.
        recipe: a shipped recipe.
        role: kind of the trained model.
        teacher: the key of the arm that trains the teacher, or the name of the experiment's borrowed one; None for an
            unguided student and for a teacher.
        against: the key of the arm that it is compared with, seed by seed.
        pool: a label; the runs of all arms that have it are averaged in one more row.
        options: passed to the constructor of the model.
        dataset: instead of the experiment's.
        taps: layers of the student; its default ones if None.
        overrides: "a.b=value" each, changes of the recipe.
        epochs, batch_size, image_size, precision: instead of the recipe's.
        fraction, images_per_class: subset of the training images.
        seeds: instead of the experiment's; for teachers that all seeds share. The students of a teacher without them
            have that of their own seed.
        quoted: published figures.
        early: published figures of its first epochs.
    """

    key: str
    label: str
    model: str
    recipe: str
    role: Literal["student", "teacher"] = "student"
    teacher: str | None = None
    against: str | None = None
    pool: str | None = None
    options: Mapping[str, Plain] = field(default_factory=lambda: MappingProxyType({}))
    dataset: str | None = None
    taps: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    image_size: int | None = None
    precision: str | None = None
    fraction: float | None = None
    images_per_class: int | None = None
    seeds: tuple[int, ...] | None = None
    quoted: tuple[Quoted, ...] = ()
    early: Early | None = None

    def chosen(self) -> dict[str, Any]:
        """Return its choices by the names of `lgkd.runner.options.Options`; unset ones are omitted."""
        names = ("recipe", "overrides", "epochs", "batch_size", "image_size", "precision", "fraction")
        values = {name: getattr(self, name) for name in (*names, "images_per_class")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Borrowed:
    """Refer to a teacher that another experiment trains.

    Attributes:
        name: of the architecture.
        trained_by: the experiment; where its folder is not beside this one's, the teacher of that name in the
            user's store is used, or the one that comes with lgkd.
        arm: its arm.
    """

    name: str
    trained_by: str
    arm: str


@dataclass(frozen=True)
class Experiment:
    """Define named trainings that answer one question.

    Attributes:
        name: accepted by `lgkd reproduce`.
        title: for listings, at most 36 characters.
        question: purpose, in a sentence.
        scale: hardware that it needs.
        dataset: a named one, or the name of a folder of images below --data-dir.
        part: of its training images, in words.
        seeds: of every arm that has none of its own.
        budget: expected duration, in words, and its basis.
        arms: teachers come before the students that they guide.
        borrowed: a teacher that it does not train itself.
        notes: differences from the sources, and other remarks.
    """

    name: str
    title: str
    question: str
    scale: Scale
    dataset: str
    part: str
    seeds: tuple[int, ...]
    budget: str
    arms: tuple[Arm, ...]
    borrowed: Borrowed | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for arm in self.arms:
            teachers = {one.key for one in self.arms if one.role == "teacher" and one.key in seen}
            known = teachers | ({self.borrowed.name} if self.borrowed else set())
            if arm.key in seen or arm.key == "teachers":
                raise InputError(f"the experiment {self.name} has two things called {arm.key!r}; name one otherwise")
            if arm.teacher is not None and arm.teacher not in known:
                raise InputError(f"{self.name}: no teacher {arm.teacher!r} comes before the arm {arm.key}")
            seen.add(arm.key)
        if lost := {arm.against for arm in self.arms if arm.against is not None} - seen:
            raise InputError(f"{self.name}: an arm is compared with {min(lost)!r}, which is not one of its arms")

    def arm(self, key: str) -> Arm:
        """Return the arm of that key, which must exist."""
        return next(arm for arm in self.arms if arm.key == key)
