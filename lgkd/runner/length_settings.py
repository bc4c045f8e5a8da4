"""Apply the rules of a recipe that depend on the length of the training, once that is known. No torch."""

from collections.abc import Sequence

from lgkd.config import LengthRule, Recipe, apply_length_rules
from lgkd.config.length_rules import in_words, reached, settings
from lgkd.config.values import size_text
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig


def settle_recipe(config: ResolvedConfig, steps_per_epoch: int) -> tuple[ResolvedConfig, str | None]:
    """Replace the rules of a configuration's recipe by the settings that they give for its length.

    Args:
        config: resolved, with the training's length in its recipe.
        steps_per_epoch: optimiser steps.

    Returns:
        The configuration, whose recipe has no rules, and a sentence on the rules that apply; None where none does.

    Raises:
        RecipeError: options of the user do not fit together with the rules.
    """
    recipe = config.recipe
    epochs = recipe.schedule.length(steps_per_epoch)
    rules = reached(recipe, epochs)
    keys = [_key(one) for one in _assignments(recipe, config.options)]
    return with_rules(config, rules), in_words(rules, epochs, keys)


def with_rules(config: ResolvedConfig, rules: Sequence[LengthRule]) -> ResolvedConfig:
    """Apply some rules of a recipe and remove all; what the user has set takes precedence."""
    return config.with_resolved(options=config.options, recipe=_ruled(config.recipe, rules, config.options))


def rule_overrides(config: ResolvedConfig, rules: Sequence[LengthRule]) -> list[str]:
    """Write some rules of a recipe as overrides, the last of which removes all; what the user has set is left out."""
    given = [_key(one) for one in _assignments(config.recipe, config.options)]
    changes = {path: text for rule in rules for path, text in settings(rule)}
    kept = [
        f"{path}={text}" for path, text in changes.items() if not any(f"{path}.".startswith(f"{key}.") for key in given)
    ]
    return [*kept, "by_length=null"]


def settled(recipe: Recipe, options: Options, steps_per_epoch: int) -> Recipe:
    """Return a recipe without rules, for its length; `options` are those that were applied to it."""
    return _ruled(recipe, reached(recipe, recipe.schedule.length(steps_per_epoch)), options)


def _ruled(recipe: Recipe, rules: Sequence[LengthRule], options: Options) -> Recipe:
    if recipe.by_length is None:
        return recipe
    return apply_length_rules(recipe, rules, _assignments(recipe, options))


def _assignments(recipe: Recipe, options: Options) -> list[str]:
    """List the settings of the user that a rule could change, too."""
    size = options.get("image_size")
    typed = {
        "view.image_size": size_text(size) if isinstance(size, tuple | list) else size,
        "view.channels": options.get("channels"),
        "precision": options.get("precision"),
    }
    given = [f"{key}={value}" for key, value in typed.items() if value is not None]
    given += options.get("overrides") or ()
    # A training without a teacher has the settings of no guide.
    return [one for one in given if recipe.guide is not None or _key(one).partition(".")[0] != "guide"]


def _key(assignment: str) -> str:
    return assignment.partition("=")[0].strip()
