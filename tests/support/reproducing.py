"""What the arms of named experiments come to."""

from dataclasses import replace

from lgkd.config import Recipe
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.spec import Arm, Early, Experiment, Quoted
from lgkd.runner.resolve import resolve_recipe


def recipe_of(arm: Arm) -> Recipe:
    """The whole recipe of an arm, whatever part of the images it is trained on."""
    chosen = arm.chosen()
    for name in ("fraction", "images_per_class"):
        chosen.pop(name, None)
    return resolve_recipe(chosen.pop("recipe"), trains=arm.role, guided=arm.teacher is not None, **chosen)


def shortened(experiment: Experiment) -> Experiment:
    """The same with two epochs of six steps, each measured, and two seeds."""
    arms = []
    for arm in experiment.arms:
        every = [word for word in arm.overrides if not word.startswith(("evaluate_every", "schedule.warmup_epochs"))]
        arms.append(replace(arm, epochs=2, overrides=(*every, "evaluate_every=1")))
    early = Early("another student", "somebody", ((1, 12.34), (2, 23.45), (5, 50.0)))
    arms[-1] = replace(arms[-1], early=early, quoted=(Quoted(98.76, "best epoch", "a paper"),))
    return replace(experiment, name="tiny", arms=tuple(arms), seeds=(0, 1))


TINY = shortened(EXPERIMENTS["digits"])
