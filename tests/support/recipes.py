"""A small recipe around the terms that a test is about."""

from typing import Any

from lgkd.config import Recipe, Term, recipe_from


def recipe(*terms: dict[str, Any]) -> Recipe:
    return recipe_from(
        {
            "about": "A test.",
            "trains": "student",
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
            "schedule": {"epochs": 10},
            "batch_size": 12,
            "guide": {"terms": list(terms)},
        }
    )


def terms_of(one: Recipe) -> tuple[Term, ...]:
    assert one.guide is not None
    return one.guide.terms
