"""Convert text to a validated recipe and back; report all errors at once with their lines."""

from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from lgkd._internal.paths import recipe_names, recipes_folder
from lgkd._internal.text import did_you_mean, safe_text
from lgkd.config.introspect import known_keys, nearest_key
from lgkd.config.length_rules import invalid_rules, misplaced_keys
from lgkd.config.problems import Path, Problem, in_order, place_and_value, sentence, shown
from lgkd.config.schema import Recipe
from lgkd.config.yaml_io import MAX_BYTES, Document, read_yaml, write_yaml
from lgkd.errors import RecipeError

_SHOWN_PROBLEMS = 50


def load_recipe(name_or_path: str | File) -> Recipe:
    """Load a recipe shipped with lgkd by name, or from a file.

    Args:
        name_or_path: a name from `lgkd._internal.paths.recipe_names()`, or a path. Text that ends in .yaml or
            .yml is a path; any other text is a name first and a path second.

    Raises:
        RecipeError: no such recipe or file, or errors in it (all of them, with lines).
    """
    if isinstance(name_or_path, str) and not name_or_path.lower().endswith((".yaml", ".yml")):
        names = recipe_names()
        if name_or_path in names:
            return _load(recipes_folder() / f"{name_or_path}.yaml")
        if not name_or_path or not File(name_or_path).is_file():
            hint = did_you_mean(name_or_path[:100], names)
            close = hint if hint.startswith("did you mean") else "give one of the names below, or a .yaml file."
            raise RecipeError(f"there is no recipe {safe_text(name_or_path)!r}; {close} Recipes: {', '.join(names)}")
    return _load(File(name_or_path))


def parse_recipe(text: str, origin: str = "recipe") -> Recipe:
    """Parse a recipe from YAML text.

    Args:
        text: the YAML text.
        origin: its name in messages, usually the file's.

    Raises:
        RecipeError: lists all errors with their lines.
    """
    document = read_yaml(text)
    if document.values is None and not document.problems:
        document.problems.append(Problem("is empty; a recipe is a list of keys and their values", (), 1))
    elif document.values is not None and not isinstance(document.values, dict):
        message = f"must be a list of keys and their values (got {shown(document.values)})"
        document.problems.append(Problem(message, (), document.line_of(())))
    if not isinstance(document.values, dict):
        raise RecipeError(report(origin, document.problems))
    return _checked(document, origin)


def recipe_from(values: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Create a recipe from plain values; raises a RecipeError that lists all errors."""
    return _checked(Document(dict(values)), origin)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML: complete, with all defaults; reads back equal."""
    return write_yaml(recipe.model_dump(mode="json"))


def report(origin: str, problems: list[Problem]) -> str:
    """Format the message of a RecipeError: a headline, and a line for every error in order of location."""
    lines = [f"{origin}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"]
    for problem in in_order(problems)[:_SHOWN_PROBLEMS]:
        place = f"{origin}:{problem.line}  " if problem.line else ""
        lines.append(f"  {place}{problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  ... and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join(lines)


def problems_in(error: ValidationError, document: Document) -> Iterator[Problem]:
    """Convert pydantic's errors to problems with the path and line in the document."""
    for found in error.errors(include_url=False):
        kind: str = found["type"]
        context: dict[str, Any] = found.get("ctx", {})
        location, value = place_and_value(found)
        path = _path(location, document.values)
        line = document.line_of(path)
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            path += ("kind",)
            line = document.line_of(path) or line
        if kind in ("missing", "union_tag_not_found"):
            message = "this key is required"
        elif kind == "extra_forbidden":
            known = known_keys(path[:-1], document.values)
            message = f"unknown key (got {shown(value)}); {nearest_key(str(path[-1]), known)}"
        elif kind == "union_tag_invalid":
            tags = context["expected_tags"].replace("'", "").split(", ")
            message = (
                f"unknown kind {safe_text(str(context['tag']))!r}; {did_you_mean(str(context['tag'])[:100], tags)}"
            )
        else:
            message = sentence(found)
        yield Problem(message, path, line)


def rule_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """Yield the problems of the rules in `by_length`: each has to give a valid recipe."""
    misplaced = list(misplaced_keys(recipe))
    for problem in misplaced:
        yield problem._replace(line=document.line_of(problem.path))
    known = {problem.path for problem in misplaced}
    for index, values, error in invalid_rules(recipe):
        for problem in problems_in(error, Document(values)):
            path: Path = ("by_length", index, "set", *problem.path)
            if not any(path[: len(one)] == one for one in known):
                yield problem._replace(path=path, line=document.line_of(path))


def _checked(document: Document, origin: str) -> Recipe:
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        raise RecipeError(report(origin, [*document.problems, *problems_in(error, document)])) from None
    if problems := [*document.problems, *rule_problems(recipe, document)]:
        raise RecipeError(report(origin, problems))
    return recipe


def _load(file: File) -> Recipe:
    origin = str(file)
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"{safe_text(origin, 300)}: cannot be read ({reason}); give an existing .yaml file, "
            f"or one of the recipes {', '.join(recipe_names())}"
        ) from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(report(origin, [Problem(f"longer than {MAX_BYTES:,} bytes; this is not a recipe")]))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = Problem("not UTF-8 text; save the file as UTF-8", (), raw.count(b"\n", 0, error.start) + 1)
        raise RecipeError(report(origin, [problem])) from None
    return parse_recipe(text, origin)


def _path(location: tuple[int | str, ...], values: Any) -> Path:
    """Return pydantic's location without the names of union members that it adds after list indexes."""
    path: list[int | str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        after_index = bool(path) and isinstance(path[-1], int)
        is_tag = after_index and isinstance(values, dict) and values.get("kind") == part and not last
        if is_tag:
            continue
        path.append(part)
        if isinstance(values, dict) and isinstance(part, str):
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            values = None
    return tuple(path)
