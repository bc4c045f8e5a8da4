"""Count the steps that a training has time for. No torch."""

import re
from typing import get_args

from lgkd.config import Recipe, apply_overrides
from lgkd.errors import InputError
from lgkd.runner.options import Options
from lgkd.runs.equal_length import Equal

LEAST_STEPS = 50
"""Fewest steps that are trained by time."""

SECONDS_AFTER = 2.0
"""Time to write the weights, the curves and the manifest."""


def parse_time(text: str | float) -> float:
    """Read a time in seconds: a number, or text such as "90s", "45m", "2h" or "1h30m".

    Raises:
        InputError: something else, or no time.
    """
    seconds = float(text) if isinstance(text, int | float) and not isinstance(text, bool) else 0.0
    if isinstance(text, str):
        found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
        hours, minutes, rest = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
        seconds = 3600.0 * hours + 60 * minutes + rest
    if not 0 < seconds < 1e8:
        raise InputError(f"--time is {text!r}, expected seconds, or text like 90s, 45m, 2h or 1h30m")
    return seconds


def check_time(options: Options) -> None:
    """Refuse a time that cannot be read, and one beside another length of the training.

    Raises:
        InputError: which of the two to leave out.
    """
    if options.get("time") is None:
        return
    parse_time(options["time"] or 0)
    others = [f"--epochs {options['epochs']}"] if options.get("epochs") is not None else []
    keys = ("schedule.epochs=", "schedule.steps=")
    others += [f"--set {one}" for one in options.get("overrides") or () if one.replace(" ", "").startswith(keys)]
    if others:
        raise InputError(
            f"--time {options['time']} and {others[0]} both set the length of the training; leave one of them out"
        )


def check_equal(equal: str, time: str | float | None, *, with_baseline: bool) -> None:
    """Refuse arms of equal minutes where there is no time, or one arm.

    Raises:
        InputError: the option that is missing, or an unknown word.
    """
    if equal not in get_args(Equal):
        raise InputError(f"--equal is {equal!r}, expected steps or minutes")
    if equal == "steps":
        return
    if not with_baseline:
        raise InputError("--equal minutes is for two arms, and there is one; add --with-baseline, or leave --equal out")
    if time is None:
        raise InputError(
            "--equal minutes gives each arm the steps that fit in one time, and there is none; add --time, like "
            "--time 45m, or leave --equal out"
        )


def steps_within(
    seconds: float, step: float, evaluation: float, steps_per_epoch: int, evaluate_every: int, most: int | None = None
) -> int:
    """Return the most steps that, with their evaluations, take no longer than a time; 0 where none do.

    Args:
        seconds: for steps and evaluations.
        step, evaluation: seconds of one.
        steps_per_epoch: optimiser steps.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        most: evaluations, of a recipe that limits them; None: no limit.
    """
    rounds = max(0, int(seconds / (step * steps_per_epoch * evaluate_every + evaluation)))
    # A last round that is not whole ends with an evaluation, too.
    rest = seconds - rounds * (step * steps_per_epoch * evaluate_every + evaluation) - evaluation
    steps = rounds * steps_per_epoch * evaluate_every + max(0, int(rest / step))
    if most is None or steps <= most * steps_per_epoch * evaluate_every:
        return steps
    return max(most * steps_per_epoch * evaluate_every, int((seconds - most * evaluation) / step))


def training_seconds(
    steps: int, step: float, evaluation: float, steps_per_epoch: int, evaluate_every: int, most: int | None = None
) -> float:
    """Return the seconds of so many steps and at most their evaluations; arguments as for `steps_within`."""
    evaluations = -(-steps // (steps_per_epoch * evaluate_every))
    return steps * step + min(evaluations, most or evaluations) * evaluation


def estimated_recipe(
    recipe: Recipe, budget: str | float, *, step: float, evaluation: float, steps_per_epoch: int
) -> Recipe:
    """Put the number of steps into a recipe that a time is enough for, by the costs that a dry run has measured.

    Args:
        recipe: of the training.
        budget: its time, as for `parse_time`.
        step, evaluation: seconds of one.
        steps_per_epoch: optimiser steps.
    """
    seconds = parse_time(budget) - SECONDS_AFTER
    every, most = recipe.evaluate_every, recipe.evaluations
    steps = max(1, steps_within(seconds, step, evaluation, steps_per_epoch, every, most))
    return apply_overrides(recipe, length_overrides(steps, warm_up(recipe, steps, steps_per_epoch)))


def warm_up(recipe: Recipe, steps: int, steps_per_epoch: int) -> float:
    """Return the epochs of warm-up that keep the recipe's share of the training."""
    schedule = recipe.schedule
    share = schedule.warmup_epochs / schedule.length(steps_per_epoch)
    return round(share * steps / steps_per_epoch, 4)


def length_overrides(steps: int, warm_up: float) -> list[str]:
    """Return the overrides of a recipe that set its length."""
    return ["schedule.epochs=null", f"schedule.steps={steps}", f"schedule.warmup_epochs={warm_up:g}"]
