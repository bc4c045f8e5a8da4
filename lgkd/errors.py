"""Define the errors lgkd raises for its users, each with the exit code of the command line.

A message is one sentence or a short list: what was found, what was expected, what to do.
"""


class LgkdError(Exception):
    """Report an error that the user can resolve. Subclasses fix the exit code."""

    exit_code = 2


class InputError(LgkdError):
    """Report bad input: a name, an option, a shape, a damaged or unrelated file (exit code 2)."""


class RecipeError(InputError):
    """Report a recipe that does not follow the schema; lists every mistake with its place."""


class DamagedError(InputError):
    """Report a file that differs from what was written.

    Attributes:
        found: the damage.
        advice: what to do.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}; {advice}")
        self.found, self.advice = found, advice

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[str, str]]:
        # The message is not the argument of the constructor.
        return type(self), (self.found, self.advice)


class ShortTimeError(InputError):
    """Report a time that is not enough for the fewest steps.

    Attributes:
        least: seconds that are enough.
    """

    def __init__(self, message: str, *, least: float = 0.0) -> None:
        super().__init__(message)
        self.least = least


class DataError(InputError):
    """Report a data set that cannot be read as one: missing classes, broken images, clashing splits."""


class ModelError(InputError):
    """Report a model that cannot be built or cannot take the images it is given."""


class TapError(InputError):
    """Report a layer that does not exist, or whose output does not fold into a map."""


class TakenError(InputError):
    """Report a folder or a name that already holds something else; nothing was changed."""


class MissingError(LgkdError):
    """Report something missing: data set, teacher, network (exit code 3)."""

    exit_code = 3


class MissingTeacherError(MissingError):
    """Report a teacher that is not trained yet.

    Attributes:
        name, dataset: of the teacher.
        command: trains it.
        others: names of teachers that are trained for that data set.
    """

    def __init__(
        self, message: str, *, name: str = "", dataset: str = "", command: str = "", others: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.name, self.dataset, self.command, self.others = name, dataset, command, others


class NonFiniteError(LgkdError):
    """Report a diverged training: a loss, gradient or weight is not finite (exit code 4)."""

    exit_code = 4


class BusyError(LgkdError):
    """Report a folder that another process holds (exit code 5)."""

    exit_code = 5


class OutOfMemoryError(LgkdError):
    """Report a stage of a training that needs more memory than there is, and cannot be made smaller (exit code 1)."""

    exit_code = 1


class Paused(LgkdError):
    """Raised when the time limit was reached and the run saved; repeat the command to resume it (exit code 75)."""

    exit_code = 75


class Interrupted(LgkdError):
    """Raised when a signal stopped the run after it was saved (exit code 128 + signal)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[str, int]]:
        # Training processes send it to each other; by default Python would lose the signal.
        return type(self), (str(self), self.exit_code - 128)


class Remark(Warning):
    """Notify the user of something that stops nothing."""
