"""Describe errors in settings: locations, values and the sentences of messages."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lgkd._internal.text import safe_text

Path = tuple[str | int, ...]
"""Location in a recipe: keys and list indexes from the top."""

_SENTENCES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a section of keys",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "int_type": "must be a whole number",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "model_attributes_type": "must be a section of keys",
    "model_type": "must be a section of keys",
    "string_type": "must be text",
    "string_unicode": "must be text without broken characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
    "tuple_type": "must be a list",
    "wrong": "{message}",
}


class Problem(NamedTuple):
    """Describe an error: its location, and the end of the sentence that begins with it."""

    message: str
    path: Path = ()
    line: int | None = None

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort by line, then by key."""
    return sorted(problems, key=lambda problem: (problem.line or 0, dotted(problem.path)))


def dotted(path: Path) -> str:
    """Format `("guide", "terms", 0)` as `guide.terms.0`, shortened and safe to print."""
    return ".".join(safe_text(str(part)) for part in path)


def shown(value: Any, limit: int = 60) -> str:
    """Format a value as a recipe would spell it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return safe_text("[" + ", ".join(shown(entry, limit) for entry in value[:20]) + "]", limit)
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large number"
    return safe_text(repr(value), limit)


def plain(number: float) -> str:
    """Format a bound: `1,000,000` and `0.001` rather than `1e+06`."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


def place_and_value(found: ErrorDetails) -> tuple[Path, Any]:
    """Return the location and the value of a validation error, of a nested key if the error names one."""
    context: Mapping[str, Any] = found.get("ctx", {})
    if not context.get("at"):
        return found["loc"], found["input"]
    below = tuple(int(part) if part.isdecimal() else part for part in context["at"].split("."))
    return (*found["loc"], *below), context["value"]


def sentence(found: ErrorDetails) -> str:
    """Turn a validation error of one value into the end of a sentence that begins with its key."""
    kind, context, value = found["type"], found.get("ctx", {}), place_and_value(found)[1]
    if kind == "literal_error":
        return f"must be {context['expected']} (got {shown(value)})"
    template = _SENTENCES.get(kind)
    bounds = {key: plain(bound) for key, bound in context.items() if key in ("gt", "ge", "lt", "le")}
    message = template.format(**{**context, **bounds}) if template else found["msg"]
    # A whole section is too long for a sentence.
    return message if isinstance(value, dict | BaseModel) else f"{message} (got {shown(value)})"
