"""Define recipes: training settings, independent of student, teacher and data set. Imports no torch."""

from lgkd.config.base import Section
from lgkd.config.optimizer import Optimizer
from lgkd.config.overrides import Explained, apply_length_rules, apply_overrides, explain
from lgkd.config.sam import Sam
from lgkd.config.schedules import AdaptiveStop, TermSchedule
from lgkd.config.schema import (
    EarlyStopping,
    Ema,
    Evaluation,
    Expectation,
    Guidance,
    LengthRule,
    Lookahead,
    Mix,
    Recipe,
    Schedule,
    Top1,
    View,
)
from lgkd.config.terms import OwnTerm, Term, TermSection
from lgkd.config.validate import dump_recipe, load_recipe, parse_recipe, recipe_from

__all__ = [
    "AdaptiveStop",
    "EarlyStopping",
    "Ema",
    "Evaluation",
    "Expectation",
    "Explained",
    "Guidance",
    "LengthRule",
    "Lookahead",
    "Mix",
    "Optimizer",
    "OwnTerm",
    "Recipe",
    "Sam",
    "Schedule",
    "Section",
    "Term",
    "TermSchedule",
    "TermSection",
    "Top1",
    "View",
    "apply_length_rules",
    "apply_overrides",
    "dump_recipe",
    "explain",
    "load_recipe",
    "parse_recipe",
    "recipe_from",
]
