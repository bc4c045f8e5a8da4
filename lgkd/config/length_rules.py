"""Apply the rules of a recipe that depend on the length of the training."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from lgkd._internal.text import safe_text
from lgkd.config.problems import Path, Problem, dotted, shown
from lgkd.config.schema import LengthRule, Recipe

_FIXED = {
    ("about",): "describes the recipe",
    ("source",): "describes the recipe",
    ("expect",): "describes the recipe",
    ("trains",): "describes the recipe",
    ("by_length",): "would change the rules themselves",
    ("schedule", "epochs"): "is the length itself",
    ("schedule", "steps"): "is the length itself",
    ("schedule", "warmup_epochs"): "follows from the length",
    ("batch_size",): "determines the steps of an epoch",
    ("drop_last",): "determines the steps of an epoch",
    ("early_stopping",): "needs held-out images, which a recipe does not choose",
    ("view", "normalize"): "is needed before the length is known",
}
"""Keys that a rule cannot set, with the reason."""


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of plain values with some replaced: sections are merged key by key, anything else is replaced."""
    merged = deepcopy(values)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            merged[key] = merge(inner, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def reached(recipe: Recipe, epochs: float) -> tuple[LengthRule, ...]:
    """Return the rules that apply to a training of so many epochs."""
    return tuple(rule for rule in recipe.by_length or () if rule.from_epochs <= epochs)


def merge_rules(recipe: Recipe, rules: Sequence[LengthRule]) -> dict[str, Any]:
    """Return the plain values of a recipe after some of its rules, without the rules."""
    values = recipe.model_dump(mode="json", exclude={"by_length"})
    for rule in rules:
        values = merge(values, rule.set)
    return values


def without_teacher(recipe: Recipe) -> Recipe:
    """Return a recipe for a training without a teacher: no guide, and no rule that changes it.

    A guide stays whose terms all read the student alone.
    """
    if recipe.guide is not None and not any(term.reads_teacher for term in recipe.guide.terms):
        return recipe
    rules = []
    for rule in recipe.by_length or ():
        kept = {key: value for key, value in rule.set.items() if key != "guide"}
        if kept:
            rules.append(rule.model_copy(update={"set": kept}))
    return recipe.model_copy(update={"guide": None, "by_length": tuple(rules) or None})


def misplaced_keys(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem for each key that a rule cannot set."""
    for index, rule in enumerate(recipe.by_length or ()):
        where: Path = ("by_length", index, "set")
        for key, reason in _FIXED.items():
            inner: Any = rule.set
            for part in key[:-1]:
                inner = inner.get(part) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping) and key[-1] in inner:
                yield Problem(f"{reason}, so a rule cannot set it; leave it out of the rule", (*where, *key))
        if "guide" in rule.set and (recipe.guide is None) != (rule.set["guide"] is None):
            what = "adds a guide to a recipe without one" if recipe.guide is None else "removes the guide"
            yield Problem(f"{what}; a rule can only change its settings", (*where, "guide"))


def invalid_rules(recipe: Recipe) -> Iterator[tuple[int, dict[str, Any], ValidationError]]:
    """Yield each rule that makes the recipe invalid, applied after those before it: index, values and errors."""
    valid: list[LengthRule] = []
    for index, rule in enumerate(recipe.by_length or ()):
        values = merge_rules(recipe, [*valid, rule])
        try:
            Recipe.model_validate(values)
            valid.append(rule)
        except ValidationError as error:
            yield index, values, error


def in_words(rules: Sequence[LengthRule], epochs: float, overridden: Collection[str] = ()) -> str | None:
    """Describe the rules that were applied to a training of so many epochs; None where none had an effect.

    Args:
        rules: those that the length reaches.
        epochs: the length.
        overridden: dotted keys that the user has set, which take precedence.
    """
    each = []
    for rule in rules:
        words = [
            f"{path}={text}"
            for path, text in settings(rule)
            if not any(f"{path}.".startswith(f"{key}.") for key in overridden)
        ]
        if words:
            each.append(f"{', '.join(words)} (from {rule.from_epochs:g} epochs)")
    return f"the recipe sets for a training of {epochs:.4g} epochs: {'; '.join(each)}" if each else None


def settings(rule: LengthRule) -> Iterator[tuple[str, str]]:
    """Yield each key that a rule sets, as a dotted name, with its value as text."""
    yield from _settings(rule.set, ())


def _settings(values: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, (*path, key))
        else:
            yield dotted((*path, key)), safe_text(value, 300) if isinstance(value, str) else shown(value, 300)
