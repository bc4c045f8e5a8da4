"""Check single values of a recipe that are more than a bounded number or a choice."""

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


Line = Annotated[str, AfterValidator(one_line)]
"""One line of printable text."""
ClassWeights = Annotated[
    Literal["none", "balanced"] | dict[str, Annotated[Number, Field(gt=0, le=1_000_000)]], WrapValidator(one_error)
]
"""Weights of the classes: a word, or numbers by class name."""
