"""Fit a training into a time: a few of its steps are timed, and the number of steps is chosen."""

import math
import time
from pathlib import Path

from lgkd._internal.distributed import highest
from lgkd._internal.hardware import process_start
from lgkd._internal.text import counted
from lgkd.config import apply_overrides, load_recipe
from lgkd.errors import InputError
from lgkd.runner.cost import measure
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.run import Run
from lgkd.runner.runner import Runner
from lgkd.runner.time_budget import (
    LEAST_STEPS,
    SECONDS_AFTER,
    length_overrides,
    parse_time,
    steps_within,
    training_seconds,
    warm_up,
)
from lgkd.runs.folder import RECIPE
from lgkd.training.peak_memory import PeakMemory


def train_within_time(config: ResolvedConfig, *, since_start: bool = False) -> Run:
    """Train what a configuration describes, in the time that its option `time` gives, if it gives one.

    Args:
        config: resolved.
        since_start: count the time from the start of the process, as a command does, and not from this call.
    """
    now = time.monotonic()
    return Runner(fit_time(config, began=process_start() if since_start else now), began=now).run()


def fit_time(config: ResolvedConfig, *, began: float | None = None) -> ResolvedConfig:
    """Replace the option `time` of a training by a number of steps: time a few of them, and one batch of evaluation.

    A folder whose recipe.yaml has a number of steps keeps it, so that the same command resumes the run.

    Args:
        config: resolved, with or without the option.
        began: `time.monotonic()` from which the time counts; by default the time is that of a training alone, whatever
            was measured before.

    Raises:
        InputError: there is not time for the fewest steps; the message has the least time.
    """
    budget = config.options.get("time")
    if budget is None:
        return config
    kept = _steps_of_run(config.folder)
    if kept is not None:
        return _with_schedule(config, *kept)
    seconds = parse_time(budget)
    # Remarks on data and teachers are made when the training starts.
    runner = Runner(_without_time(config, "say", "watchers"))
    started = time.monotonic()
    memory = PeakMemory(runner.session.device)
    prepared = runner.prepare()
    start_up = time.monotonic() - started
    try:
        plan, data = prepared.plan, prepared.data
        cost = measure(
            prepared.student,
            prepared.guides,
            prepared.recipe,
            data,
            prepared.loader,
            plan,
            prepared.image_size,
            memory,
            # A machine's speed changes from second to second: a twentieth of the time is measured, up to half a minute.
            longest=min(30.0, max(3.0, seconds / 20)),
        )
    finally:
        prepared.close()
    tested = len(data.test) + (len(data.val) if data.val is not None else 0)
    # Processes have to choose alike: by the slowest of them.
    before = start_up + (time.monotonic() - began if began is not None else 0.0) + SECONDS_AFTER
    before, step, image = highest([before, cost.seconds_a_step, cost.seconds_an_image])
    per_epoch, every = plan.steps_per_epoch, plan.evaluate_every
    steps = steps_within(seconds - before, step, tested * image, per_epoch, every)
    if steps < LEAST_STEPS:
        least = before + training_seconds(LEAST_STEPS, step, tested * image, per_epoch, every)
        raise InputError(
            f"the time of {budget} is enough for {counted(steps, 'step')}, expected {LEAST_STEPS} or more; give "
            f"{math.ceil(least)} seconds or more, or use a smaller model, data set or batch"
        )
    chosen = _with_schedule(config, steps, warm_up(config.recipe, steps, per_epoch))
    say = config.options.get("say")
    if say is not None and runner.session.first:
        say(
            f"{steps:,} steps ({steps / per_epoch:.3g} epochs) are chosen for a training of {seconds:,.0f} s: "
            f"{1000 * step:,.0f} ms a step, {tested * image:,.1f} s an evaluation, {before:,.0f} s before and after"
        )
    return chosen


def _steps_of_run(folder: Path) -> tuple[int, float] | None:
    """Read the steps and the epochs of warm-up of a run that has begun; None where it has none."""
    try:
        schedule = load_recipe(folder / RECIPE).schedule
    except (InputError, OSError):
        return None
    return (schedule.steps, schedule.warmup_epochs) if schedule.steps is not None else None


def _without_time(config: ResolvedConfig, *others: str) -> ResolvedConfig:
    options = {name: value for name, value in config.options.items() if name not in ("time", *others)}
    return config.with_resolved(options=options)  # type: ignore[arg-type]


def _with_schedule(config: ResolvedConfig, steps: int, warm_up_epochs: float) -> ResolvedConfig:
    """Set the length of a training, in its recipe and, for runs that are resolved anew, among its overrides."""
    overrides = length_overrides(steps, warm_up_epochs)
    plain = _without_time(config)
    options: Options = {**plain.options, "overrides": [*(config.options.get("overrides") or ()), *overrides]}
    return plain.with_resolved(options=options, recipe=apply_overrides(config.recipe, overrides))
