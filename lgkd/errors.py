"""The errors lgkd raises for its users, each with the exit code of the command line.

A message is one sentence or a short list: what was found, what was expected, what to do.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import takewhile

_FIRST_LETTERS = 4
"""So many have to be alike before they count for more than the rest of a name."""


class LgkdError(Exception):
    """Something a user can act on. Subclasses fix the exit code."""

    exit_code = 2


class InputError(LgkdError):
    """Bad input: a name, an option, a shape, a broken or foreign file (exit code 2)."""


class RecipeError(InputError):
    """A recipe that does not follow the schema; lists every mistake with its place."""


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


def safe_text(text: str, limit: int = 60) -> str:
    """`text` on one line, free of control characters and not longer than `limit` characters."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half sentence with the closest known names, or with all of a short list."""
    names = sorted(set(known))
    close = list(dict.fromkeys([*_begun_alike(name, names), *get_close_matches(name, names, n=3, cutoff=0.5)]))[:3]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return "there are none"
    if len(names) <= 12:
        return "known: " + ", ".join(names)
    return "known: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"


def _begun_alike(name: str, names: Sequence[str]) -> list[str]:
    """The names that share most of the first letters; a long one is not close to what was typed, but meant."""
    shared = {one: _shared(one, name) for one in names}
    most = max(shared.values(), default=0)
    if most < _FIRST_LETTERS or most < 0.75 * len(name):
        return []
    return get_close_matches(name, [one for one in names if shared[one] == most], n=3, cutoff=0)


def _shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
