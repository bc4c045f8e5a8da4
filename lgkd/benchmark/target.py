"""Check what `lgkd bench --to-accuracy` is to reach. No torch, so that a wrong choice is reported at once."""

from dataclasses import dataclass

from lgkd.benchmark.options import Choices
from lgkd.errors import InputError
from lgkd.runner.resolve import resolve_recipe
from lgkd.runner.time_budget import parse_time


@dataclass(frozen=True)
class Target:
    """Describe what is to be reached, and by which trainings.

    Attributes:
        accuracy: top-1 on held-out training images, 0 to 1.
        first, longest: time of the first and limit of the last training, as for `--time`.
        teacher_recipe: of the teacher's training.
        teacher_time: of the teacher's training, as for `--time`; None for the length that its recipe has.
        stored_teacher: guide by the teacher of the store, whose training is then not counted.

    Raises:
        InputError: an accuracy or a time is out of range.
    """

    accuracy: float
    first: str = "1m"
    longest: str = "1h"
    teacher_recipe: str = "teacher"
    teacher_time: str | None = None
    stored_teacher: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.accuracy <= 1:
            raise InputError(
                f"--to-accuracy is {self.accuracy:g} of 1, expected a share above 0, like 0.5, or percent, like 50"
            )
        if parse_time(self.first) > parse_time(self.longest):
            raise InputError(
                f"--first-time {self.first} is longer than --longest-time {self.longest}; give a shorter one first"
            )
        if self.teacher_time is not None:
            parse_time(self.teacher_time)
            if self.stored_teacher:
                raise InputError(
                    "--stored-teacher trains no teacher, so it has no --teacher-time; leave one of them out"
                )

    @property
    def times(self) -> list[float]:
        """Return the seconds of the trainings: doubled from the first to the longest."""
        times = [parse_time(self.first)]
        while 2 * times[-1] <= parse_time(self.longest):
            times.append(2 * times[-1])
        return times


def as_share(accuracy: float) -> float:
    """Return an accuracy as a share: numbers above 1 are percent."""
    return accuracy / 100 if accuracy > 1 else accuracy


def check_trained(choices: Choices, target: Target) -> None:
    """Check that choices name a training that can be made, and its teacher a recipe.

    Raises:
        InputError: there is no student or data set, or one of the settings does not fit.
    """
    if choices.student is None or choices.dataset is None:
        missing = "--student" if choices.student is None else "--dataset"
        raise InputError(f"--to-accuracy trains a student on real images, and there is no {missing}; name one")
    if choices.guided and not target.stored_teacher:
        resolve_recipe(target.teacher_recipe, trains="teacher", guided=False)
