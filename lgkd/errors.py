"""The errors lgkd raises for its users, each with the exit code of the command line.

A message is one sentence or a short list: what was found, what was expected, what to do.
"""


class LgkdError(Exception):
    """Something a user can act on. Subclasses fix the exit code."""

    exit_code = 2


class InputError(LgkdError):
    """Bad input: a name, an option, a shape, a broken or foreign file (exit code 2)."""


class RecipeError(InputError):
    """A recipe that does not follow the schema; lists every mistake with its place."""


class DamagedError(InputError):
    """A file that is not as it was written.

    Attributes:
        found: what is wrong with it.
        advice: what to do.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}; {advice}")
        self.found, self.advice = found, advice

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[str, str]]:
        # The message is not what it is made from.
        return type(self), (self.found, self.advice)


class DataError(InputError):
    """A data set that cannot be read as one: missing classes, broken images, clashing splits."""


class ModelError(InputError):
    """A model that cannot be built or cannot take the images it is given."""


class TapError(InputError):
    """A layer that is not there, or whose output does not fold into a map."""


class TakenError(InputError):
    """A folder or a name that already holds something else; nothing was touched."""


class MissingError(LgkdError):
    """Something needed is not here: data set, teacher, network (exit code 3)."""

    exit_code = 3


class MissingTeacherError(MissingError):
    """A teacher is not trained yet.

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
    """The training went bad: a loss, gradient or weight is not finite (exit code 4)."""

    exit_code = 4


class BusyError(LgkdError):
    """Another process holds the folder (exit code 5)."""

    exit_code = 5


class Paused(LgkdError):
    """The time limit was reached and the run saved; the same command goes on (exit code 75)."""

    exit_code = 75


class Interrupted(LgkdError):
    """A signal stopped the run after it was saved (exit code 128 + signal)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[str, int]]:
        # Processes that train together tell each other of it; by default Python would forget the signal.
        return type(self), (str(self), self.exit_code - 128)


class Remark(Warning):
    """A sentence that the user should hear and that stops nothing."""
