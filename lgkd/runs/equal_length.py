"""Compare the lengths of a guided training and its baseline: equal steps, or equal minutes."""

from collections.abc import Mapping
from typing import Any, Literal

from lgkd.runs.early_stop import stopped_early, trained_epochs

Equal = Literal["steps", "minutes"]
"""Quantity that a guided training and its baseline have in common."""

_LENGTH = ("epochs", "recipe.schedule.epochs", "recipe.schedule.steps", "recipe.schedule.warmup_epochs")
"""Settings that follow from the time to which a training was fitted."""


def read_fitted(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read from a run.json the time to which the number of steps was fitted; None where it was not.

    "seconds" is the time, and "timed" the arm whose steps were timed: "own" or "guided".
    """
    found = info.get("time")
    if not isinstance(found, Mapping) or found.get("timed") not in ("own", "guided"):
        return None
    seconds = found.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < 1e8:
        return None
    return {"seconds": float(seconds), "timed": found["timed"]}


def equal_minutes(one: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """Return the seconds to which two trainings were fitted, each by its own steps; None where that is not so.

    Args:
        one, other: the content of run.json.
    """
    found = [read_fitted(info) for info in (one, other)]
    if any(fitted is None or fitted["timed"] != "own" for fitted in found) or found[0] != found[1]:
        return None
    return float(found[0]["seconds"])  # type: ignore[index]


def without_length(info: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's identity without what follows from its length, for two runs of equal minutes.

    The settings of a recipe may follow the length, too; the recipe's name and the user's changes stand for them.

    Args:
        info: the content of run.json.
        identity: from `lgkd.runs.identity.identity`.
    """
    kept = {key: value for key, value in identity.items() if not key.startswith("recipe.") and key not in _LENGTH}
    changes = [one for one in info.get("overrides") or () if f"recipe.{str(one).partition('=')[0]}" not in _LENGTH]
    return {**kept, "recipe": info.get("recipe"), "overrides": changes}


def follows_from_length(key: str) -> bool:
    """Return whether a key of an identity is the length of the training, or its warm-up."""
    return key in _LENGTH


def count_steps(info: Mapping[str, Any], identity: Mapping[str, Any]) -> int | None:
    """Count the optimiser steps of a run, where they are known; arguments as for `without_length`."""
    steps, per_epoch = identity.get("recipe.schedule.steps"), info.get("steps_per_epoch")
    if (steps is None or stopped_early(info)) and isinstance(per_epoch, int):
        steps = trained_epochs(info) * per_epoch
    return steps if isinstance(steps, int) else None
