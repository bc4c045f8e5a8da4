"""Recipes: how to train, and nothing of who is trained on what. No torch in this package."""

from lgkd.config.base import Section
from lgkd.config.losses import LocalityTerm, OwnTerm, Term, TermSection
from lgkd.config.overrides import Explained, apply_overrides, explain
from lgkd.config.schema import Ema, Evaluation, Expectation, Guidance, Mix, Optimizer, Recipe, Schedule, Top1, View
from lgkd.config.validate import dump_recipe, load_recipe, parse_recipe, recipe_from

__all__ = [
    "Ema",
    "Evaluation",
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
