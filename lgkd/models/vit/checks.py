"""Validate options of the parts of a ViT, each with a one-line error."""

from typing import Any

from lgkd.errors import ModelError


def whole(name: str, value: Any, least: int = 1) -> int:
    """Return the value if it is a whole number of at least `least`.

    Raises:
        ModelError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ModelError(f"{name} is {value!r}, expected a whole number of at least {least}")
    return value


def share(name: str, value: Any) -> float:
    """Return the value if it is a probability below 1.

    Raises:
        ModelError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ModelError(f"{name} is {value!r}, expected a number from 0 to below 1")
    return float(value)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Validate that the value is one of the choices.

    Raises:
        ModelError: it is not.
    """
    if value not in choices:
        raise ModelError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
