"""What the arms of named experiments come to."""

from lgkd.config import Recipe
from lgkd.experiments.spec import Arm
from lgkd.runner.resolve import resolve_recipe


def recipe_of(arm: Arm) -> Recipe:
    """The whole recipe of an arm, whatever part of the images it is trained on."""
    chosen = arm.chosen()
    for name in ("fraction", "images_per_class"):
        chosen.pop(name, None)
    return resolve_recipe(chosen.pop("recipe"), trains=arm.role, guided=arm.teacher is not None, **chosen)
