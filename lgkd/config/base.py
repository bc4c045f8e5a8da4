"""What every part of a recipe is made of: sections, numbers and how a mistake is told."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

# How a whole number and any other number may be spelt: in decimals, so no 010, 0x1f, 1_000 or 1:30.
WHOLE_TEXT = r"[-+]?(?:0|[1-9][0-9]*)"
FLOAT_TEXT = r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"


def wrong(message: str, *, at: str = "", value: Any = None) -> PydanticCustomError:
    """A mistake in a recipe, told as the end of the sentence "KEY: ...".

    Args:
        message: what was expected and what to do.
        at: the key below the checked one, when the mistake lies deeper.
        value: what was found at `at`.
    """
    return PydanticCustomError("wrong", "{message}", {"message": message, "at": at, "value": value})


def _number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(f"{WHOLE_TEXT}|{FLOAT_TEXT}", value):
        return float(value)
    return value


def as_tuple(value: Any) -> Any:
    """A list as a tuple: frozen all the way down, for a list inside a frozen recipe could still be changed."""
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]


class Section(BaseModel):
    """A part of a recipe: refuses unknown keys, cannot be changed once made."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )
