"""Register a loss under the name that recipes use, and check its options by the signature of its constructor.

The signature is the only declaration of a loss's options: type, default and bounds. `python -m tools.loss_table` writes
them, with the descriptions of the docstring, for those who read recipes without torch.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from torch import nn

from lgkd._internal.text import did_you_mean
from lgkd.errors import InputError

Loss = TypeVar("Loss", bound=type[nn.Module])


@dataclass(frozen=True)
class Bounds:
    """Bound a numeric option, as in `Annotated[float, Bounds(gt=0, le=10)]`."""

    le: float
    gt: float | None = None
    ge: float | None = None

    def __post_init__(self) -> None:
        if (self.gt is None) == (self.ge is None):
            raise TypeError("a range needs one lower bound, gt or ge")

    def __repr__(self) -> str:
        low = f"gt={self.gt:g}" if self.gt is not None else f"ge={self.ge:g}"
        return f"Bounds({low}, le={self.le:g})"

    def __contains__(self, value: float) -> bool:
        return (value > self.gt if self.gt is not None else value >= (self.ge or 0)) and value <= self.le

    def __str__(self) -> str:
        low = f"> {self.gt:g}" if self.gt is not None else f">= {self.ge:g}"
        return f"{low} and <= {self.le:g}"


@dataclass(frozen=True)
class OnlyWith:
    """Restrict an option to its default unless another option has a given value."""

    option: str
    value: str


Temperature = Annotated[float, Bounds(gt=0, le=1000)]
Factor = Annotated[float, Bounds(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class Option:
    """Describe an option of a loss.

    Attributes:
        kind: its type; `str` with `choices` for a set of allowed words.
        help: its description in the docstring of the class.
    """

    kind: type
    default: Any
    choices: tuple[str, ...] = ()
    bounds: Bounds | None = None
    only_with: OnlyWith | None = None
    help: str = ""


@dataclass(frozen=True)
class Registered:
    """Hold the registry entry of a loss: its name in recipes, and its published weight, 1 if none is known."""

    kind: str
    weight: float
    weight_help: str


TERMS: dict[str, type[nn.Module]] = {}
"""Kinds of terms in recipes, and their losses."""


def register_loss(kind: str, *, weight: float, weight_help: str) -> Callable[[Loss], Loss]:
    """Register a loss class as a kind of term in recipes; a class decorator.

    The arguments of the constructor become keys of a recipe, and are checked on every call by their annotations:
    numbers within `Bounds`, words of a `Literal`. The docstring describes each under "Args:".

    Args:
        kind: its name in recipes.
        weight: default weight of a term: the published one, or 1.
        weight_help: effect of the weight, in a sentence.

    Raises:
        TypeError: another loss has the name; or an option has no default or no description, or a type that a recipe
            cannot write.
    """

    def register(loss: Loss) -> Loss:
        other = TERMS.get(kind, loss)
        if (other.__module__, other.__name__) != (loss.__module__, loss.__name__):
            raise TypeError(
                f"{loss.__name__} is registered as {kind!r}, which {other.__name__} is; choose another name"
            )
        options = options_of(loss)
        if options:
            loss.__init__ = _checked(loss.__init__, options)  # type: ignore[method-assign]
        loss.registered = Registered(kind, weight, weight_help)  # type: ignore[attr-defined]
        TERMS[kind] = loss
        return loss

    return register


def registration(loss: type) -> Registered | None:
    """Return the entry of a loss; None for any other class, including subclasses of a registered loss."""
    entry: Registered | None = vars(loss).get("registered")
    return entry


def options_of(loss: type) -> dict[str, Option]:
    """Read the options of a loss from the signature of its constructor.

    Raises:
        TypeError: an option has no default or no description, or a type that a recipe cannot write.
    """
    hints = get_type_hints(loss.__init__, include_extras=True)  # type: ignore[misc]
    helps = _descriptions(loss)
    parameters = inspect.signature(loss).parameters.values()
    return {
        one.name: _option(loss, one, hints[one.name], helps.get(one.name, ""))
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }


def _option(loss: type, parameter: inspect.Parameter, hint: Any, text: str) -> Option:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        kind = str
    known = bool(choices) or kind is bool or (kind in (int, float) and bounds is not None)
    if not known or parameter.default is parameter.empty or not text:
        raise TypeError(
            f"option {parameter.name} of {loss.__name__} needs a default, a line in the docstring's Args, and a type "
            "among bool, Literal[...] of words, and Annotated[float or int, Bounds(...)]"
        )
    condition = next((extra for extra in extras if isinstance(extra, OnlyWith)), None)
    return Option(kind, parameter.default, choices, bounds, condition, text)


def _descriptions(loss: type) -> dict[str, str]:
    """Read the descriptions under "Args:" of a docstring, each as one line."""
    section = re.search(r"^Args:\n((?:    .*\n?)+)", inspect.cleandoc(loss.__doc__ or ""), re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _checked(init: Callable[..., None], options: dict[str, Option]) -> Callable[..., None]:
    form = inspect.signature(init)

    @functools.wraps(init)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        given = form.bind(self, *args, **kwargs)
        values = given.arguments
        for key, option in options.items():
            if key in values:
                values[key] = _check(name, key, option, values[key])
        for key, option in options.items():
            condition = option.only_with
            if condition is not None and values.get(key, option.default) != option.default:
                other = values.get(condition.option, options[condition.option].default)
                if other != condition.value:
                    raise InputError(
                        f"{name}: {key} is {values[key]!r} and {condition.option} {other!r}; leave {key} at "
                        f"{option.default!r}, or set {condition.option} to {condition.value!r}"
                    )
        init(*given.args, **given.kwargs)

    return checked


def _check(name: str, key: str, option: Option, value: Any) -> Any:
    """Return the value of an option, a float where the option is one; else raise an InputError that names it."""
    if option.choices:
        if value not in option.choices:
            raise InputError(f"{name}: unknown {key} {value!r}; {did_you_mean(str(value), option.choices)}")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if option.kind is float and option.bounds is not None:
        if not number or value not in option.bounds:
            raise InputError(f"{name}: {key} is {value!r}, expected a number {option.bounds}")
        return float(value)
    if option.kind is int and option.bounds is not None:
        if not number or not isinstance(value, int) or value not in option.bounds:
            raise InputError(f"{name}: {key} is {value!r}, expected a whole number {option.bounds}")
        return value
    if not isinstance(value, bool):
        raise InputError(f"{name}: {key} is {value!r}, expected True or False")
    return value
