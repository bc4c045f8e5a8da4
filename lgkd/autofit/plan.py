"""Choose the settings of a fit from facts about the images and the machine: a pure function, each choice with a reason.

docs/choosing.md has every rule with its evidence. No torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lgkd._internal.text import counted, one_line
from lgkd.autofit.inputs import Facts, Size, Wishes
from lgkd.config.values import size_text

TEACHER_SHARE = 0.4
"""Share of the time for start-up, the check and the teacher; the students have the rest, less `reserve`."""
SIZES = (32, 64, 96)
"""Sides of the student's images, in pixels."""
SMALL, LARGE = 48, 160
"""Shorter sides of stored images, in pixels, from which the second and the third of `SIZES` is used."""
FEW_IMAGES = 5000
"""Most training images for the small teacher."""
LEAST_STEPS_AN_EPOCH, SMALLEST_BATCH = 8, 16
LONG = 3600.0
"""Seconds from which the wide student is used."""
UNEQUAL = 1.5
"""Ratio of the largest class to the smallest from which balanced accuracy is shown, too."""

_LABEL_TERMS = "guide.terms.1={kind: kd, temperature: 2.0}"
"""Second term of `fast` with several labels an image: standardised logits are for classes that exclude each other."""

_TEACHER_EPOCHS = 14
"""Fewest epochs of a teacher at 64 px; the length of the recipe teacher-fast."""
_TEACHER_SIDE = 64
_MACS = {
    "fastnet_small": 27e6,
    "fastnet_medium": 152e6,
    "fastnet_large": 380e6,
    "fastnet_guide": 87e6,
    "fastnet_guide_large": 188e6,
}
"""Multiplications of a forward pass at 32 px; they grow with the square of the side."""
_MACS_A_SECOND = 100e9
"""Of a training on one core, forward and backward: dev/LOG.md, 2026-11-30, has 170 to 210 GFLOP/s."""


@dataclass(frozen=True)
class Choice:
    """State one choice: its value and the reason, in words."""

    name: str
    value: str
    because: str


@dataclass(frozen=True)
class Plan:
    """Hold the settings of a fit.

    Attributes:
        image_size, teacher_image_size: sides, or (height, width), in pixels.
        student, teacher: architectures.
        student_options: of its constructor.
        batch_size, teacher_batch_size: images a step.
        overrides: of both recipes, which those of the user follow.
        choices: with their reasons.
        stored_side: option of the trainings; None: images are stored whole.
        student_overrides: of the students' recipe, which those of the user follow.
    """

    image_size: Size
    teacher_image_size: Size
    student: str
    teacher: str
    student_options: Mapping[str, Any]
    batch_size: int
    teacher_batch_size: int
    overrides: tuple[str, ...]
    choices: tuple[Choice, ...]
    stored_side: str | None = None
    student_overrides: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Return a line for each choice."""
        name, value = (max(len(getattr(one, part)) for one in self.choices) for part in ("name", "value"))
        return [f"{one.name:<{name}}  {one.value:<{value}}  {one.because}" for one in self.choices]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            **asdict(self),
            "overrides": list(self.overrides),
            "student_overrides": list(self.student_overrides),
            "choices": [asdict(one) for one in self.choices],
        }


def make_plan(facts: Facts, wishes: Wishes) -> Plan:
    """Choose the settings of a fit.

    Args:
        facts: about images and machine.
        wishes: of the user, which take precedence.
    """
    teacher, why_teacher = _teacher(facts, wishes)
    hurry = _is_short(facts, wishes, teacher)
    size, why_size = _size(facts, wishes, hurry)
    theirs = wishes.teacher_image_size or _teacher_size(size, SIZES[0] if hurry else _TEACHER_SIDE)
    student, why_student = _student(facts, wishes)
    options = {**fitting_options(student, size), **wishes.student_options}
    batch = wishes.batch_size or batch_for(facts.train, wishes.recipe[1])
    teacher_batch = wishes.batch_size or batch_for(facts.train, wishes.teacher_recipe[1])
    own = (_LABEL_TERMS,) if facts.several_labels and wishes.recipe[0] == "fast" else ()
    overrides = [*([] if wishes.flip else ["view.flip=0", "view.alternate_flip=false"])]
    overrides += ["view.normalize=dataset"] if facts.grey else []
    choices = (
        Choice("images", _images(facts), _per_class(facts)),
        _test(facts),
        *_groups(facts),
        Choice("size", _sizes(size, theirs), why_size),
        Choice("flips", "left-right" if wishes.flip else "none", _why_flip(wishes)),
        Choice("colours", "the set's own" if facts.grey else "as photographs", _why_colours(facts)),
        Choice("teacher", _short(teacher), why_teacher),
        Choice("student", _short(student), why_student),
        Choice("recipes", *_recipes(wishes, independent=bool(own))),
        Choice("batch", f"{batch}" if batch == teacher_batch else f"{batch}, teacher {teacher_batch}",
               _why_batch(facts, wishes, batch)),
        Choice("held out", *_held_out(facts)),
        Choice("length", *_length(wishes, facts)),
        Choice("on", *_machine(facts)),
    )  # fmt: skip
    return Plan(
        image_size=size,
        teacher_image_size=theirs,
        student=student,
        teacher=teacher,
        student_options=options,
        batch_size=batch,
        teacher_batch_size=teacher_batch,
        overrides=(*overrides, *wishes.class_settings),
        choices=choices,
        stored_side="auto" if facts.reduces else None,
        student_overrides=own,
    )


def fitting_options(student: str, size: Size) -> dict[str, Any]:
    """Return the options by which a student has 8 x 8 patches, or as many on the shorter side."""
    return {"patch_size": max(1, (size if isinstance(size, int) else min(size)) // 8)} if student == "deit_tiny" else {}


def batch_for(images: int, largest: int) -> int:
    """Choose a batch size: halve that of the recipe until an epoch has eight steps, down to 16.

    The recipes drop the incomplete batch at an epoch's end, other images in every epoch.

    Args:
        images: to train on.
        largest: batch size of the recipe.
    """
    batch = largest
    while batch // 2 >= SMALLEST_BATCH and images // batch < LEAST_STEPS_AN_EPOCH:
        batch //= 2
    return max(1, min(batch, images))


def reserve(seconds: float, test_images: int, *, runs: int, seconds_an_image: float) -> float:
    """Estimate the seconds after the last training: the report evaluates the test images again, then the export.

    Args:
        seconds: of the whole fit; at most three tenths are reserved.
        test_images: of the test split.
        runs: students that the report evaluates, 1 or 2.
        seconds_an_image: of an evaluation.
    """
    return min(0.3 * seconds, 30.0 + 1.5 * runs * test_images * seconds_an_image)


def teacher_epochs(seconds: float, facts: Facts, teacher: str, side: int) -> float:
    """Estimate the epochs for which a teacher has time on a CPU, by the multiplications of its convolutions."""
    macs = 3 * _MACS.get(teacher, _MACS["fastnet_medium"]) * (side / 32) ** 2
    return TEACHER_SHARE * seconds / facts.in_turn * facts.threads * _MACS_A_SECOND / macs / max(facts.train, 1)


def _is_short(facts: Facts, wishes: Wishes, teacher: str) -> bool:
    """Check whether the time is too short for a teacher at 64 px."""
    if wishes.seconds is None or facts.gpu is not None:
        return False
    return teacher_epochs(wishes.seconds, facts, teacher, _TEACHER_SIDE) < _TEACHER_EPOCHS


def _teacher_size(size: Size, most: int) -> Size:
    """Return the student's size, or one of its proportions with the pixels of a square of `most`, in steps of 8."""
    if isinstance(size, int):
        return min(size, most)
    scale = most / (size[0] * size[1]) ** 0.5
    if scale >= 1:
        return size
    height, width = (max(8, 8 * round(side * scale / 8)) for side in size)
    return height if height == width else (height, width)


def _sizes(ours: Size, theirs: Size) -> str:
    return f"{size_text(ours)} px" if theirs == ours else f"{size_text(ours)} px, teacher {size_text(theirs)}"


def _size(facts: Facts, wishes: Wishes, hurry: bool) -> tuple[Size, str]:
    stored = f"shorter sides of {facts.short_side} px"
    if wishes.image_size is not None:
        return wishes.image_size, f"as given; {stored}"
    if facts.short_side < SMALL:
        return SIZES[0], stored
    if facts.short_side < LARGE:
        return SIZES[1], stored
    return (SIZES[1], f"{stored}; short of time") if hurry else (SIZES[2], stored)


def _teacher(facts: Facts, wishes: Wishes) -> tuple[str, str]:
    if wishes.teacher is not None:
        return wishes.teacher, "as given"
    if facts.train <= FEW_IMAGES:
        return "fastnet_small", f"for {FEW_IMAGES:,} images or fewer"
    return "fastnet_guide", f"for more than {FEW_IMAGES:,} images"


def _student(facts: Facts, wishes: Wishes) -> tuple[str, str]:
    if wishes.student is not None:
        return wishes.student, "as given"
    if wishes.seconds is not None and wishes.seconds / facts.in_turn >= LONG:
        return "vit_192", "8 x 8 patches; for an hour and more"
    return "vit_128", "8 x 8 patches; for less than an hour"


def _images(facts: Facts) -> str:
    return f"{facts.train:,} of {counted(facts.classes, 'class')}"


def _per_class(facts: Facts) -> str:
    if facts.several_labels:
        return f"several labels an image: {facts.fewest:,} to {facts.most:,} of each"
    if facts.fewest == facts.most:
        return f"{facts.most:,} of each"
    more = ": unequal" if facts.ratio >= UNEQUAL else ""
    return f"{facts.fewest:,} to {facts.most:,} of each{more}"


def _test(facts: Facts) -> Choice:
    if facts.folds:
        which = f"each of {facts.folds} folds in turn" if facts.in_turn > 1 else f"fold {facts.fold} of {facts.folds}"
        return Choice("test", f"{facts.test:,} images", f"{which}{', whole groups' if facts.grouped else ''}")
    if facts.test_is_made:
        part = "a fifth, in whole groups" if facts.grouped else "a fifth of each class"
        return Choice("test", f"{facts.test:,} images", f"no test split: {part}")
    return Choice("test", f"{facts.test:,} images", "the test split; it chooses nothing")


def _groups(facts: Facts) -> tuple[Choice, ...]:
    """Remark on images held out one by one: where both parts have photographs of one subject they measure too much."""
    held_out_here = facts.folds or facts.test_is_made or (facts.held_out and not facts.val_is_given)
    if facts.grouped or not held_out_here:
        return ()
    return (Choice("groups", "none", "images of one subject or series: --groups"),)


def _why_flip(wishes: Wishes) -> str:
    return "--no-flip where the sides mean something" if wishes.flip else "as given"


def _why_colours(facts: Facts) -> str:
    return "all images looked at are grey" if facts.grey else "normalised by ImageNet's mean and spread"


def _recipes(wishes: Wishes, *, independent: bool) -> tuple[str, str]:
    names = f"{_short(wishes.teacher_recipe[0], 12)}, {_short(wishes.recipe[0], 10)}"
    if wishes.custom_recipes:
        return names, "as given"
    return names, "short trainings on few cores" + ("; logits compared label by label" if independent else "")


def _why_batch(facts: Facts, wishes: Wishes, batch: int) -> str:
    steps = counted(facts.train // batch, "step")
    return f"as given; {steps} an epoch" if wishes.batch_size is not None else f"{steps} an epoch, the rest is dropped"


def _held_out(facts: Facts) -> tuple[str, str]:
    if facts.held_out and facts.val_is_given:
        return f"{facts.held_out:,} images", "the split val: the epoch that does best on it is kept"
    if facts.held_out:
        return f"{facts.held_out:,} images", "the epoch that does best on them is kept"
    return "nothing", "the last epoch; else --val-fraction 0.1"


def _length(wishes: Wishes, facts: Facts) -> tuple[str, str]:
    students = "guided and unguided student" if wishes.baseline else "guided student"
    if (pairs := len(wishes.seeds) * facts.in_turn) > 1:
        students = f"{pairs * (1 + wishes.baseline)} students"
    teachers = "teacher" if facts.in_turn == 1 else f"{facts.in_turn} teachers"
    if wishes.seconds is None:
        return counted(wishes.epochs or 0, "epoch"), f"as given: {teachers}, {students}"
    return in_words(wishes.seconds), f"{teachers} {TEACHER_SHARE:.0%}, {students}"


def _machine(facts: Facts) -> tuple[str, str]:
    if facts.gpu is not None:
        return "GPU", _short(facts.gpu, 44)
    return "CPU", counted(facts.threads, "thread")


def in_words(seconds: float) -> str:
    """Format a time as `--time` takes it: 1h30m, 20m, 90s."""
    whole = max(1, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if number]
    return f"{whole}s" if whole < 120 else "".join(parts)


def _short(text: str, longest: int = 22) -> str:
    text = one_line(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
