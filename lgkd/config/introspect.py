"""The schema as a tree one can walk by key, shared by messages, overrides and listings."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lgkd._internal.text import did_you_mean
from lgkd.config.base import Section
from lgkd.config.problems import Path, plain
from lgkd.config.schema import Recipe


def variants(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None and without what `Annotated` adds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return variants(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [variant for argument in get_args(annotation) for variant in variants(argument)]
    return [] if annotation is NoneType else [annotation]


def sections_of(annotation: Any) -> list[type[Section]]:
    """The sections that an annotation stands for; more than one where a key `kind` chooses."""
    return [v for v in variants(annotation) if isinstance(v, type) and issubclass(v, Section)]


def fields_of(annotation: Any, values: Any = None) -> dict[str, FieldInfo]:
    """The keys of the section an annotation stands for; empty where it is not a section.

    Where several kinds of section may stand, `values` tells by its `kind` which one is meant.
    """
    sections = sections_of(annotation)
    kind = values.get("kind") if isinstance(values, dict) else None
    meant = [section for section in sections if kind is not None and kind == _kind(section)]
    return {key: field for section in meant or sections for key, field in section.model_fields.items()}


def _kind(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return None if field is None else get_args(field.annotation)[0]


def list_entry(annotation: Any) -> Any | None:
    """The annotation of a list's entries; None where it is not a list of any length."""
    for variant in variants(annotation):
        arguments = get_args(variant)
        if get_origin(variant) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return arguments[0]
    return None


def is_pair(annotation: Any) -> bool:
    """Whether an annotation stands for two numbers in brackets."""
    return any(get_origin(v) is tuple and get_args(v)[1] is not Ellipsis for v in variants(annotation))


def is_free(annotation: Any) -> bool:
    """Whether an annotation stands for a section whose keys the schema does not know."""
    return any(get_origin(variant) is dict for variant in variants(annotation))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Half a sentence for an unknown key: the closest in its section, else its namesake elsewhere."""
    hint = did_you_mean(key[:100], known)
    places = places_of(key)
    if places and not hint.startswith("did you mean"):
        return did_you_mean(places[0], places)
    return hint


def known_keys(path: Path, values: Any) -> list[str]:
    """The keys that may stand in the section at `path` of a recipe read as `values`."""
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
    """Dotted names of every section key called `key`, for those who put it in the wrong section."""
    found: list[str] = []

    def walk(annotation: Any, prefix: str) -> None:
        for name, field in fields_of(annotation).items():
            if name == key:
                found.append(prefix + name)
            walk(field.annotation, f"{prefix}{name}.")

    walk(Recipe, "")
    return found


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """What may be written for a key, in words: `number >= 0, <= 1 or null`."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(
            [type_text(argument, metadata) for argument in arguments if argument is not NoneType] + ["null"]
        )
    if get_origin(annotation) is Annotated:
        return type_text(arguments[0], [*metadata, *arguments[1:]])
    if get_origin(annotation) is Literal:
        return " or ".join(str(choice) for choice in arguments)
    if get_origin(annotation) is tuple:
        return "list of sections" if arguments[1] is Ellipsis else "two numbers"
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, Section)):
        return "section"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {plain(getattr(entry, name))}"
        for entry in metadata
        for name, sign in signs.items()
        if hasattr(entry, name)
    ]
    return f"{words[annotation]} {', '.join(bounds)}".rstrip()
