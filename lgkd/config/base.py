"""Define base classes of recipe sections, and the type of their numbers."""

import re
from dataclasses import FrozenInstanceError, field, make_dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, dataclass_transform

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from lgkd.config.problems import dotted, place_and_value, sentence
from lgkd.errors import InputError

# Allowed spellings of integers and other numbers: decimal only, so no 010, 0x1f, 1_000 or 1:30.
WHOLE_TEXT = r"[-+]?(?:0|[1-9][0-9]*)"
FLOAT_TEXT = r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"


def wrong(message: str, *, at: str = "", value: Any = None) -> PydanticCustomError:
    """Create the error of an invalid recipe value; the message completes "KEY: ...".

    Args:
        message: what was expected and what to do.
        at: the nested key, if the error is below the checked one.
        value: the value found at `at`.
    """
    return PydanticCustomError("wrong", "{message}", {"message": message, "at": at, "value": value})


def _number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(f"{WHOLE_TEXT}|{FLOAT_TEXT}", value):
        return float(value)
    return value


def as_tuple(value: Any) -> Any:
    """Convert a list to a tuple, since a list inside a frozen recipe could still be changed."""
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]


class Section(BaseModel):
    """Validate a section of a recipe: unknown keys are refused, instances are immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


@dataclass_transform(field_specifiers=(Field,))
class Settings(Section):
    """Declare a section's defaults and bounds once, for recipes and for Python code.

    In Python it is a frozen dataclass: fields by position or by name, `dataclasses.replace`, `fields` and `asdict`,
    equality, hash and repr by value.

    Raises:
        InputError: a value is out of range; names the class, the field, the bound and the value.
        TypeError: an argument is missing or unknown.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        parameters, fields = [], []
        for name, info in cls.model_fields.items():
            default = Parameter.empty if info.is_required() else info.default
            kind = Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(Parameter(name, kind, default=default, annotation=info.annotation))
            fields.append((name, info.annotation, field() if info.is_required() else field(default=info.default)))
        cls.__signature__ = Signature(parameters)
        cls.__dataclass_fields__ = vars(make_dataclass(cls.__name__, fields))["__dataclass_fields__"]

    if not TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None:
            given = type(self).__signature__.bind(*values, **named).arguments
            try:
                self.__pydantic_validator__.validate_python(given, self_instance=self)
            except ValidationError as error:
                found = error.errors(include_url=False)[0]
                where = dotted(place_and_value(found)[0])
                raise InputError(f"{type(self).__name__}: {where} {sentence(found)}") from None

        # Pydantic validates a section inside a recipe by itself, so that its errors are reported with their lines.
        __init__.__pydantic_base_init__ = True

        def __setattr__(self, name: str, value: Any) -> None:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name: str) -> None:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
