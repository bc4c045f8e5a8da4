"""Hold what the plan of a fit depends on: facts about images and machine, and the wishes of the user. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Facts:
    """Hold what the choices depend on.

    Attributes:
        name: of the data set.
        classes: their number.
        train: training images that are used, without those held out.
        fewest, median, most: training images of a class.
        test: images of the test split.
        test_is_made: the test split was held out from the training images, since there is none.
        held_out: images to choose the epoch on.
        short_side: median shorter side of the stored images, in pixels.
        grey: all images looked at are grey.
        threads: cores that a training uses.
        gpu: its name; None without one.
        val_is_given: the images to choose the epoch on are a split of the data set.
        reduces: training images are stored no larger than the views need; not in a fit that an earlier version began.
        several_labels: an image may have several labels; numbers of images of a class are of those with its label.
        folds: of a cross-validation, 0 without; numbers of images are those of one.
        fold: the only one that is tested on; 0: each in turn.
        grouped: whole groups are held out.
    """

    name: str
    classes: int
    train: int
    fewest: int
    median: float
    most: int
    test: int
    test_is_made: bool
    held_out: int
    short_side: int
    grey: bool
    threads: int
    gpu: str | None
    val_is_given: bool = False
    reduces: bool = False
    several_labels: bool = False
    folds: int = 0
    fold: int = 0
    grouped: bool = False

    @property
    def ratio(self) -> float:
        """Return the images of the largest class over those of the smallest, at least 1."""
        return self.most / max(self.fewest, 1)

    @property
    def in_turn(self) -> int:
        """Return the number of folds that are trained for, 1 without a cross-validation."""
        return 1 if self.fold else max(1, self.folds)


@dataclass(frozen=True)
class Wishes:
    """Hold what the user has chosen; None leaves the choice to the rules.

    Attributes:
        seconds: for everything; None where `epochs` sets the length.
        epochs: of each training.
        baseline: whether the student is trained unguided, too.
        seeds: of the students.
        flip: whether images are mirrored left to right.
        student, teacher: architectures.
        student_options: of its constructor.
        recipe, teacher_recipe: names or files, with the `batch_size` of each.
        image_size, teacher_image_size: sides, or (height, width), in pixels.
        batch_size: of all trainings.
        class_settings: overrides of both recipes for unequal classes. Nothing sets them yet: this is the place for
            class weights or a balanced sampler.
    """

    seconds: float | None
    epochs: int | None = None
    baseline: bool = False
    seeds: tuple[int, ...] = (0,)
    flip: bool = True
    student: str | None = None
    teacher: str | None = None
    student_options: Mapping[str, Any] = field(default_factory=dict)
    recipe: tuple[str, int] = ("fast", 128)
    teacher_recipe: tuple[str, int] = ("teacher-fast", 256)
    custom_recipes: bool = False
    image_size: Size | None = None
    teacher_image_size: Size | None = None
    batch_size: int | None = None
    class_settings: tuple[str, ...] = ()
