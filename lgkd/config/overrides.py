"""Override single values of a recipe by name, as `--set` does, and list the keys."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from lgkd._internal.text import safe_text
from lgkd.config.introspect import fields_of, is_free, is_pair, list_entry, nearest_key, sections_of, type_text
from lgkd.config.length_rules import merge_rules, settings
from lgkd.config.problems import Path, Problem, shown
from lgkd.config.schema import LengthRule, Recipe
from lgkd.config.validate import problems_in, recipe_from, report, rule_problems
from lgkd.config.yaml_io import Document, read_yaml
from lgkd.errors import RecipeError


class _MistakeError(Exception):
    """Raised when an error is found while walking along a path."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Explained(NamedTuple):
    """Describe a key of a recipe."""

    path: str
    """Dotted name, as in `--set`."""
    type: str
    """Allowed values."""
    default: str
    """Its value in a recipe; for the schema its default, or "required"."""
    description: str
    """Meaning and unit."""


def apply_overrides(recipe: Recipe, assignments: list[str]) -> Recipe:
    """Return a copy of a recipe with single values replaced.

    Args:
        recipe: the recipe to change.
        assignments: `PATH=VALUE` each: `optimizer.lr=3e-4`, `guide.terms.0.weight=1`, `ema=null`. The
            value is read as in a recipe file. A key below a section that is null creates the section;
            the index one past the end of a list creates an entry. The last assignment of a path wins.

    Raises:
        RecipeError: lists all errors, each with its path and value.
    """
    result = try_overrides(recipe, assignments)
    if isinstance(result, list):
        raise RecipeError(report("--set", result))
    return result


def try_overrides(recipe: Recipe, assignments: list[str]) -> Recipe | list[Problem]:
    """Return the recipe that `apply_overrides` makes, or all problems of the assignments."""
    values = recipe.model_dump(mode="json")
    problems: list[Problem] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            lacking = "name before the '='" if equals else "'='"
            message = f"{safe_text(assignment)!r} has no {lacking}; write NAME=VALUE, like optimizer.lr=3e-4"
            problems.append(Problem(message))
            continue
        changed = deepcopy(values)  # so that an error halfway leaves no empty sections behind
        try:
            _set(changed, name.strip().split("."), text)
            values = changed
        except _MistakeError as error:
            problems.append(error.problem)
    try:
        result = Recipe.model_validate(values)
        problems += rule_problems(result, Document(values))
    except ValidationError as error:
        problems += problems_in(error, Document(values))
    return problems or result


def apply_length_rules(recipe: Recipe, rules: Sequence[LengthRule], assignments: Sequence[str] = ()) -> Recipe:
    """Return a recipe after some of its rules, without the rules.

    Args:
        recipe: with `assignments` applied.
        rules: those of `by_length` that the training's length reaches, in their order.
        assignments: as for `apply_overrides`; they take precedence over the rules.

    Raises:
        RecipeError: the assignments do not fit together with the rules.
    """
    plain = recipe_from(merge_rules(recipe, rules), "by_length")
    kept = [one for one in assignments if one.partition("=")[0].strip().partition(".")[0] != "by_length"]
    return apply_overrides(plain, kept) if rules else plain


def explain(recipe: Recipe | type[Recipe] = Recipe) -> list[Explained]:
    """List every key in the order of the schema: of the schema itself, or with a recipe's values.

    If several kinds of section are allowed, the schema's rows are those of each kind in turn.
    """
    if isinstance(recipe, type):
        return _explained(Recipe, None, "", whole=True)
    rows = _explained(Recipe, recipe.model_dump(mode="json"), "", whole=False)
    about = {row.path: row for row in _explained(Recipe, None, "", whole=True)}
    for index, rule in enumerate(recipe.by_length or ()):
        # The keys of a rule are those of a recipe.
        where = f"by_length.{index}.set"
        at = next(place for place, row in enumerate(rows) if row.path == where)
        rows[at : at + 1] = [
            Explained(f"{where}.{path}", about[path].type, text, about[path].description) if path in about
            else Explained(f"{where}.{path}", "", text, "")
            for path, text in settings(rule)
        ]  # fmt: skip
    return rows


def _explained(annotation: Any, values: Any, prefix: str, *, whole: bool) -> list[Explained]:
    rows: list[Explained] = []
    for key, field in fields_of(annotation, values).items():
        path = prefix + key
        value = None if whole or values is None else values.get(key)
        entry = list_entry(field.annotation)
        inner = bool(fields_of(field.annotation)) or entry is not None
        if whole:
            default = field.get_default()
            if default is PydanticUndefined:
                text = "required"
            else:
                text = "" if inner and default is not None else _spelt(default)
        else:
            text = "" if inner and value is not None else _spelt(value)
        words = type_text(field.annotation, field.metadata)
        rows.append(Explained(path, words, text, field.description or ""))
        if entry is not None:
            for index, one in enumerate([None] if whole else value or []):
                for kind in sections_of(entry) if whole else [entry]:
                    rows += _explained(kind, one, f"{path}.{index}.", whole=whole)
        elif whole or value is not None:
            rows += _explained(field.annotation, value, f"{path}.", whole=whole)
    return rows


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) else shown(value, 300)


def _set(values: dict[str, Any], parts: list[str], text: str) -> None:
    """Set the value of `text` at a path, creating sections on the path that are null."""
    got = safe_text(text.strip())
    path: Path = ()
    here: Any = values
    key: Any
    key, annotation = _enter(Recipe, here, parts[0], path, got)
    for part in parts[1:]:
        path = (*path, key)
        inner = here[key] if isinstance(here, list) else here.get(key)
        if inner is None and (list_entry(annotation) is not None or fields_of(annotation)):
            inner = {} if list_entry(annotation) is None else []
            here[key] = inner
        elif is_free(annotation) and not isinstance(inner, dict):
            # A key that is either a word or a section, such as class_weights.
            inner = here[key] = {}
        here = inner
        key, annotation = _enter(annotation, here, part, path, got)
    path = (*path, key)
    if not got:
        raise _MistakeError(Problem("nothing after '='; write null for none", path))
    given = read_yaml(text)
    if given.problems:
        first = given.problems[0]
        raise _MistakeError(Problem(f"{first.message} (got {got})", path + first.path))
    here[key] = given.values


def _enter(annotation: Any, here: Any, part: str, path: Path, got: str) -> tuple[str | int, Any]:
    """Return the key or index that `part` names in a section or list, and its annotation."""
    entry = list_entry(annotation)
    if entry is not None or (is_pair(annotation) and isinstance(here, list)):
        limit = len(here) if entry is not None else 1
        if not re.fullmatch("[0-9]{1,6}", part) or int(part) > limit:
            message = f"is a list; name an entry by its number, 0 to {limit} (got {safe_text(part)!r})"
            raise _MistakeError(Problem(message, path))
        if int(part) == len(here):
            here.append(None)
        return int(part), entry
    if is_free(annotation):
        return part, None
    fields = fields_of(annotation, here)
    if not fields:
        message = f"is a single value and has no key {safe_text(part)!r} (got {got})"
        raise _MistakeError(Problem(message, path))
    if part not in fields:
        raise _MistakeError(Problem(f"unknown key (got {got}); {nearest_key(part, fields)}", (*path, part)))
    return part, fields[part].annotation
