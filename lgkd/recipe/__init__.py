"""Recipes: how to train, and nothing of who is trained on what. No torch in this room."""

from lgkd.recipe.overrides import Explained, apply_overrides, explain
from lgkd.recipe.reading import dump_recipe, load_recipe, parse_recipe, recipe_from
from lgkd.recipe.schema import (
    Ema,
    Expectation,
    Guidance,
    Mix,
    Optimizer,
    Recipe,
    Schedule,
    Top1,
    View,
)
from lgkd.recipe.section import Section
from lgkd.recipe.terms import LocalityTerm, OwnTerm, Term, TermSection

__all__ = [
    "Ema",
    "Expectation",
    "Explained",
    "Guidance",
    "LocalityTerm",
    "Mix",
    "Optimizer",
    "OwnTerm",
    "Recipe",
    "Schedule",
    "Section",
    "Term",
    "TermSection",
    "Top1",
    "View",
    "apply_overrides",
    "dump_recipe",
    "explain",
    "load_recipe",
    "parse_recipe",
    "recipe_from",
]
