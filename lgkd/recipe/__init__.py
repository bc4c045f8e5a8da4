"""Recipes: how to train, and nothing of who is trained on what. No torch in this room."""

from lgkd.recipe.overrides import Explained, apply_overrides, explain
from lgkd.recipe.reading import dump_recipe, load_recipe, parse_recipe, recipe_from
from lgkd.recipe.schema import (
    Ema,
    Expectation,
    Guidance,
    LocalityTerm,
    Mix,
    Optimizer,
    Recipe,
    Schedule,
    Section,
    Term,
    Top1,
    View,
)

__all__ = [
    "Ema",
    "Expectation",
    "Explained",
    "Guidance",
    "LocalityTerm",
    "Mix",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Section",
    "Term",
    "Top1",
    "View",
    "apply_overrides",
    "dump_recipe",
    "explain",
    "load_recipe",
    "parse_recipe",
    "recipe_from",
]
