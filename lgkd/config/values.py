"""Check single values of a recipe that are more than a bounded number or a choice."""

import re
from contextlib import suppress
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from lgkd.config.base import Number, wrong
from lgkd.config.policy import read_policy


def as_pair(value: Any) -> Any:
    """Convert a list of two numbers to a tuple."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise wrong("must be two numbers in brackets, like [0.1, 1.0]")
    return tuple(value)


def one_line(text: str) -> str:
    """Strip text of one line."""
    text = text.strip()
    if not text or len(text) > 2000 or not text.isprintable():
        raise wrong("must be one line of printable text, 1 to 2000 characters")
    return text


def iso_date(text: str) -> str:
    """Normalise a date."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise wrong("must be a date like 2025-01-31") from None


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Check that a range starts with its smaller end."""
    if pair[0] > pair[1]:
        raise wrong("must be [smallest, largest]; the first is greater than the second")
    return pair


def known_policy(text: str) -> str:
    """Check a policy of RandAugment in timm's notation."""
    try:
        read_policy(text)
    except ValueError as error:
        raise wrong(
            "must be 'rand' and then any of -m (magnitude), -n (operations), -p (probability), -mstd, -mmax "
            f"and -inc, each with a number, like 'rand-m9-mstd0.5-inc1'; {error}"
        ) from None
    return text


def one_error(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Report one error for class weights, where a union would report one for each member."""
    try:
        return validate(value)
    except ValidationError:
        raise wrong("must be none, balanced, or a section of positive numbers by class name") from None


def read_image_size(text: str) -> int | tuple[int, int]:
    """Parse "64" to a side and "160x320" to (height, width), in pixels; a square is one side.

    Raises:
        ValueError: another form.
    """
    found = re.fullmatch("(-?[0-9]{1,9})(?:x(-?[0-9]{1,9}))?", text.strip())
    if found is None:
        raise ValueError(text)
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)


def size_text(size: int | tuple[int, int] | list[int]) -> str:
    """Format an image size as `--image-size` takes it: 64, or 160x320 for (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}" if height == width else f"{height}x{width}"


def sides(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Check an image size: one side, [height, width] or "HxW"; equal sides become one."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = read_image_size(value)
    if isinstance(value, list | tuple):
        if len(value) != 2 or not all(type(side) is int and LEAST_SIDE <= side <= MOST_SIDE for side in value):
            raise wrong(f"must be a side, or [height, width], in pixels from {LEAST_SIDE} to {MOST_SIDE:,}")
        return value[0] if value[0] == value[1] else tuple(value)
    try:
        return validate(value)
    except ValidationError as error:
        # Of a union pydantic reports every member; the first is the one of a single number.
        first = error.errors(include_url=False)[0]
        if first["type"] == "int_type":
            raise wrong("must be a whole number, or [height, width] like [160, 320] or 160x320") from None
        raise wrong(f"must be >= {LEAST_SIDE}" if value < LEAST_SIDE else f"must be <= {MOST_SIDE:,}") from None


LEAST_SIDE, MOST_SIDE = 8, 4096
"""Sides of images, in pixels."""
_Side = Annotated[int, Field(ge=LEAST_SIDE, le=MOST_SIDE)]
ImageSize = Annotated[_Side | tuple[_Side, _Side], WrapValidator(sides)]
"""Side of square images, or (height, width), in pixels."""
Line = Annotated[str, AfterValidator(one_line)]
"""One line of printable text."""
ClassWeights = Annotated[
    Literal["none", "balanced"] | dict[str, Annotated[Number, Field(gt=0, le=1_000_000)]], WrapValidator(one_error)
]
"""Weights of the classes: a word, or numbers by class name."""
