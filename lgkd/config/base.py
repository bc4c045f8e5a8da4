"""Base classes of a recipe's sections, and the type of its numbers."""

import re
from dataclasses import FrozenInstanceError, field, make_dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, dataclass_transform

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from lgkd.config.problems import dotted, place_and_value, sentence
from lgkd.errors import InputError

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


@dataclass_transform(field_specifiers=(Field,))
class Settings(Section):
    """A section that Python code makes as well: the one declaration of its defaults and bounds.

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

        # Pydantic validates a section inside a recipe by itself, so that its mistakes are told with their lines.
        __init__.__pydantic_base_init__ = True

        def __setattr__(self, name: str, value: Any) -> None:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name: str) -> None:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
