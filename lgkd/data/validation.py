"""Check settings; an error is one sentence: the field, the value that was found, the range."""

import math
from collections.abc import Sequence

from lgkd.errors import InputError


def number_within(
    field: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
) -> float:
    """Return `value` as a float, if it is a finite number of the interval.

    Args:
        field: name of the setting, for the message.
        low, high: ends of the interval; they belong to it, `low` not where `low_open`.

    Raises:
        InputError: `value` is not a number, not finite or outside.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        above = number > low if low_open else number >= low
        if above and number <= high:
            return number
    left, right = "(" if low_open else "[", ")" if math.isinf(high) else "]"
    raise InputError(f"{field} is {value!r}; expected a number in {left}{low:g}, {high:g}{right}")


def one_of(field: str, value: object, choices: Sequence[str]) -> str:
    """Return `value`, if it is one of `choices`.

    Raises:
        InputError: it is not one of them.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise InputError(f"{field} is {value!r}; expected one of " + ", ".join(choices))


def image_size_of(value: object) -> tuple[int, int]:
    """Return (height, width) from one side or a pair of sides.

    Raises:
        InputError: a side is not a positive whole number.
    """
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2:
        height, width = sides
        if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width)):
            return int(height), int(width)
    raise InputError(f"image_size is {value!r}; expected a side in pixels or (height, width), both above 0")


def colours(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check a normalisation: means and positive deviations of three channels or one, for pixels in [0, 1].

    Raises:
        InputError: there are not three or one of each, or one is out of range.
    """
    for field, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, 3) or len(values) != len(mean):
            raise InputError(
                f"{field} has {len(values)} numbers; expected 3, for red, green and blue, or 1 for grey levels"
            )
    means = tuple(number_within(f"mean[{i}]", value, 0.0, 1.0) for i, value in enumerate(mean))
    deviations = tuple(number_within(f"std[{i}]", value, 0.0, low_open=True) for i, value in enumerate(std))
    return means, deviations
