"""The recipe's key `sam`, from a recipe to the plan of a training."""

import pytest

from lgkd.cli.dry_run import _recipe
from lgkd.config import Sam, apply_overrides, load_recipe
from lgkd.errors import RecipeError
from lgkd.runner.build import make_plan


def test_the_key_reaches_the_plan() -> None:
    recipe = load_recipe("locality-guidance")
    assert recipe.sam is None
    changed = apply_overrides(recipe, ["sam.rho=0.5", "sam.adaptive=true"])
    for found, expected in ((recipe, None), (changed, Sam(0.5, adaptive=True))):
        plan = make_plan(found, steps_per_epoch=10, seed=0, device="cpu", channels_last=False)
        assert plan.sam == found.sam == expected
    with pytest.raises(RecipeError, match=r"sam\.rho: must be > 0 \(got 0\)"):
        apply_overrides(recipe, ["sam.rho=0"])


def test_a_dry_run_shows_it() -> None:
    recipe = load_recipe("supervised")
    assert "SAM" not in _recipe(recipe)
    for settings, expected in ((["sam.rho=0.05"], "SAM, rho 0.05"), (["sam.adaptive=true"], "SAM, rho 0.05, adaptive")):
        assert _recipe(apply_overrides(recipe, settings)).endswith(f", {expected}")
