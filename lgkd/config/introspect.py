"""Walk the schema as a tree by key, for messages, overrides and listings."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lgkd._internal.text import did_you_mean
from lgkd.config.base import Section
from lgkd.config.problems import Path, plain
from lgkd.config.schema import Recipe


def variants(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation, without None and without `Annotated` metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return variants(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [variant for argument in get_args(annotation) for variant in variants(argument)]
    return [] if annotation is NoneType else [annotation]


def sections_of(annotation: Any) -> list[type[Section]]:
    """Return the sections of an annotation; more than one if a key `kind` selects."""
    return [v for v in variants(annotation) if isinstance(v, type) and issubclass(v, Section)]


def fields_of(annotation: Any, values: Any = None) -> dict[str, FieldInfo]:
    """Return the keys of an annotation's section; empty if it is not a section.

    If several kinds of section are allowed, the `kind` in `values` selects one.
    """
    sections = sections_of(annotation)
    kind = values.get("kind") if isinstance(values, dict) else None
    meant = [section for section in sections if kind is not None and kind == _kind(section)]
    return {key: field for section in meant or sections for key, field in section.model_fields.items()}


def _kind(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return None if field is None else get_args(field.annotation)[0]


def list_entry(annotation: Any) -> Any | None:
    """Return the annotation of a list's entries; None if it is not a list of any length."""
    for variant in variants(annotation):
        arguments = get_args(variant)
        if get_origin(variant) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return arguments[0]
    return None


def is_pair(annotation: Any) -> bool:
    """Return True if an annotation is a pair of numbers in brackets."""
    return any(get_origin(v) is tuple and get_args(v)[1] is not Ellipsis for v in variants(annotation))


def is_free(annotation: Any) -> bool:
    """Return True if an annotation is a section with keys unknown to the schema."""
    return any(get_origin(variant) is dict for variant in variants(annotation))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Suggest a replacement of an unknown key: the closest in its section, else a key of that name elsewhere."""
    hint = did_you_mean(key[:100], known)
    places = places_of(key)
    if places and not hint.startswith("did you mean"):
        return did_you_mean(places[0], places)
    return hint


def known_keys(path: Path, values: Any) -> list[str]:
    """Return the keys allowed in the section at `path` of a recipe read as `values`."""
    annotation: Any = Recipe
    for part in path:
        if isinstance(part, int):
            annotation = list_entry(annotation)
            values = values[part] if isinstance(values, list) and part < len(values) else None
        else:
            field = fields_of(annotation, values).get(part)
            annotation = None if field is None else field.annotation
            values = values.get(part) if isinstance(values, dict) else None
    return list(fields_of(annotation, values))


def places_of(key: str) -> list[str]:
    """Return the dotted names of every section key named `key`, to suggest the right section."""
    found: list[str] = []

    def walk(annotation: Any, prefix: str) -> None:
        for name, field in fields_of(annotation).items():
            if name == key:
                found.append(prefix + name)
            walk(field.annotation, f"{prefix}{name}.")

    walk(Recipe, "")
    return found


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Describe the allowed values of a key: `number >= 0, <= 1 or null`."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        words = [type_text(argument, metadata) for argument in arguments if argument is not NoneType]
        return " or ".join([*words, "null"] if NoneType in arguments else words)
    if get_origin(annotation) is Annotated:
        more = [one for entry in arguments[1:] for one in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
        return type_text(arguments[0], [*metadata, *more])
    if get_origin(annotation) is Literal:
        return " or ".join(str(choice) for choice in arguments)
    if get_origin(annotation) is tuple:
        return "list of sections" if arguments[1] is Ellipsis else "two numbers"
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, Section)):
        return "section"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {plain(getattr(entry, name))}"
        for entry in metadata
        for name, sign in signs.items()
        if hasattr(entry, name)
    ]
    return f"{names[annotation]} {', '.join(bounds)}".rstrip()
