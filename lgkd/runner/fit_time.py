"""Fit a training into a time: a few of its steps are timed, and the number of steps is chosen."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lgkd._internal.distributed import highest
from lgkd._internal.hardware import process_start
from lgkd._internal.text import counted, safe_text
from lgkd.config import LengthRule, apply_overrides, load_recipe
from lgkd.config.length_rules import reached
from lgkd.errors import InputError, ShortTimeError
from lgkd.runner.cost import measure
from lgkd.runner.length_settings import rule_overrides, with_rules
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
from lgkd.runs.equal_length import read_fitted
from lgkd.runs.folder import RECIPE, read_run
from lgkd.training.compile import Compile, cpp_compiler
from lgkd.training.compile_blocks import repeated_blocks
from lgkd.training.peak_memory import PeakMemory

LONG_ENOUGH_TO_COMPILE = 1800.0
"""Seconds of a training on a CPU from which compiling its step, which takes a minute or two, is tried."""

LONG_ENOUGH_FOR_BLOCKS = 1200.0
"""Seconds from which compiling one block for all, in less than half of that time, is tried in its place."""

LEAST_GAIN = 1.03
"""Compiled steps that fit into the time, as a multiple of eager ones, from which the step is compiled."""


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
        ShortTimeError: there is not time for the fewest steps; the message has the least time.
    """
    budget = config.options.get("time")
    if budget is None:
        return config
    if (kept := length_of_run(config, config.folder)) is not None:
        return kept
    seconds = parse_time(budget)
    clock = _Clock(seconds, began)
    timed = _time_steps(config, clock, ())
    # Settings that follow the length change the time of a step, on which the length depends.
    first = reached(config.recipe, timed.epochs(clock))
    for number in range(len(first), 0, -1):
        slower = _time_steps(config, clock, first[:number])
        if len(reached(config.recipe, slower.epochs(clock))) >= number:
            timed = slower
            break
    config, timed = _compile_if_faster(config, timed, clock)
    steps = timed.most_steps(clock)
    if steps < LEAST_STEPS:
        least = clock.before + training_seconds(LEAST_STEPS, *timed.cost)
        raise ShortTimeError(
            f"the time of {budget} is enough for {counted(steps, 'step')}, expected {LEAST_STEPS} or more; give "
            f"{math.ceil(least)} seconds or more, or use a smaller model, data set or batch",
            least=least,
        )
    later = [rule.from_epochs for rule in config.recipe.by_length or ()][len(timed.rules) :]
    if later:
        steps = min(steps, math.ceil(later[0] * timed.steps_per_epoch) - 1)
    warm = warm_up(config.recipe, steps, timed.steps_per_epoch)
    chosen = with_length(config, steps, warm, {"seconds": seconds, "timed": "own"}, rules=_shared(config, timed.rules))
    say = config.options.get("say")
    if say is not None and timed.first:
        say(
            f"{steps:,} steps ({steps / timed.steps_per_epoch:.3g} epochs) are chosen for a training of "
            f"{seconds:,.0f} s: {1000 * timed.step:,.0f} ms a step, {timed.evaluation:,.1f} s an evaluation, "
            f"{clock.before:,.0f} s before and after"
        )
    return chosen


def length_of_run(config: ResolvedConfig, run: Path) -> ResolvedConfig | None:
    """Set the length that another run of this training was given, and how it compiles; None where it has no steps.

    Args:
        config: resolved.
        run: folder of the run, or where it would be.
    """
    kept = _steps_of_run(run)
    if kept is None:
        return None
    info = read_run(run)
    compiled = info.get("compiled")
    if config.options.get("compile") is None and (compiled is True or compiled == "blocks"):
        config = _compiled(config, compiled)
    steps, warm = kept
    per_epoch = info.get("steps_per_epoch")
    rules = reached(config.recipe, steps / per_epoch) if isinstance(per_epoch, int) and per_epoch > 0 else ()
    return with_length(config, steps, warm, read_fitted(info), rules=_shared(config, rules))


def _shared(config: ResolvedConfig, rules: Sequence[LengthRule]) -> Sequence[LengthRule] | None:
    """Return the rules of all folds of a cross-validation, whose epochs have other numbers of steps; None without."""
    return rules if config.subset.fold is not None else None


@dataclass
class _Clock:
    """Hold the time of a training, and what of it is needed before and after its steps.

    Attributes:
        seconds: of the whole training.
        began: `time.monotonic()` from which they count; None: what has been measured before is not counted.
        before: seconds up to now, to start up again, and to write the results.
    """

    seconds: float
    began: float | None
    before: float = 0.0


@dataclass(frozen=True)
class _Timed:
    """Hold the measured steps of a training with some of its recipe's rules, alike in all processes.

    Attributes:
        rules: of the recipe, in force while the steps were timed.
        step, evaluation: seconds of one.
        steps_per_epoch: of the plan.
        evaluate_every, evaluations: of the recipe.
        first: whether this process speaks for all.
        alone_on_cpu: whether one process trains on a CPU.
        has_blocks: whether the student has blocks of which one can be compiled for all.
        compile_seconds: of the first step, if it was compiled.
    """

    rules: tuple[LengthRule, ...]
    step: float
    evaluation: float
    steps_per_epoch: int
    evaluate_every: int
    evaluations: int | None
    first: bool
    alone_on_cpu: bool
    has_blocks: bool
    compile_seconds: float

    @property
    def cost(self) -> tuple[float, float, int, int, int | None]:
        """Return the arguments of `training_seconds` after the number of steps."""
        return self.step, self.evaluation, self.steps_per_epoch, self.evaluate_every, self.evaluations

    def most_steps(self, clock: _Clock) -> int:
        """Return the most steps for which there is time."""
        return steps_within(clock.seconds - clock.before, *self.cost)

    def epochs(self, clock: _Clock) -> float:
        """Return the epochs for which there is time."""
        return self.most_steps(clock) / self.steps_per_epoch


def _compile_if_faster(config: ResolvedConfig, eager: _Timed, clock: _Clock) -> tuple[ResolvedConfig, _Timed]:
    """Choose a compiled step on a CPU where more of them fit into a long time, by timing it.

    The whole step is tried in a long training, and the student's blocks alone in a shorter one. The clock is set
    forward by the time that this takes and, with a compiled step, by compiling once more.
    """
    asked = config.options.get("compile") is not None
    way = _way_to_try(clock.seconds, has_blocks=eager.has_blocks)
    if asked or not eager.alone_on_cpu or way is False or cpp_compiler() is None:
        return config, eager
    named = "the step is" if way is True else "blocks are"
    say = config.options.get("say") or (lambda _: None)
    started = time.monotonic()
    try:
        compiled: _Timed | None = _time_steps(_compiled(config, way), replace(clock), eager.rules)
        verdict = ""
    except RuntimeError as error:  # of torch's compiler, whose errors derive from it
        reason = safe_text(str(error).strip().partition("\n")[0], 200)
        compiled, verdict = None, f"compiling it failed: {type(error).__name__}: {reason}"
    if clock.began is not None:
        clock.before += time.monotonic() - started
    if compiled is not None:
        later = replace(clock, before=clock.before + compiled.compile_seconds)
        verdict = (
            f"{1000 * compiled.step:,.0f} ms in place of {1000 * eager.step:,.0f}, and "
            f"{compiled.compile_seconds:,.0f} s to compile"
        )
        if compiled.most_steps(later) > LEAST_GAIN * eager.most_steps(clock):
            say(f"{named} compiled: {verdict}")
            clock.before = later.before
            return _compiled(config, way), compiled
    say(f"{named} not compiled: {verdict}")
    return config, eager


def _way_to_try(seconds: float, *, has_blocks: bool) -> Compile:
    """Return what to compile in a training of this time, if that is faster."""
    if seconds >= LONG_ENOUGH_TO_COMPILE:
        return True
    return "blocks" if has_blocks and seconds >= LONG_ENOUGH_FOR_BLOCKS else False


def _compiled(config: ResolvedConfig, what: Compile) -> ResolvedConfig:
    options: Options = {**config.options, "compile": what}
    return config.with_resolved(options=options)


def _time_steps(config: ResolvedConfig, clock: _Clock, rules: Sequence[LengthRule]) -> _Timed:
    """Time a few steps of a training and one batch of evaluation, with some rules of its recipe."""
    # Remarks on data and teachers are made when the training starts.
    runner = Runner(_without_time(with_rules(config, rules), "say", "watchers"))
    started = time.monotonic()
    memory = PeakMemory(runner.session.device)
    prepared = runner.prepare()
    start_up = time.monotonic() - started
    try:
        plan, data = prepared.plan, prepared.data
        has_blocks = bool(repeated_blocks(prepared.student))
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
            longest=min(30.0, max(3.0, clock.seconds / 20)),
        )
    finally:
        prepared.close()
    tested = len(data.test) + (len(data.val) if data.val is not None else 0)
    # Processes have to choose alike: by the slowest of them.
    before = start_up + (time.monotonic() - clock.began if clock.began is not None else 0.0) + SECONDS_AFTER
    clock.before, step, image = highest([before, cost.seconds_a_step, cost.seconds_an_image])
    session = runner.session
    return _Timed(
        rules=tuple(rules),
        step=step,
        evaluation=tested * image,
        steps_per_epoch=plan.steps_per_epoch,
        evaluate_every=prepared.recipe.evaluate_every,
        evaluations=prepared.recipe.evaluations,
        first=session.first,
        alone_on_cpu=session.process.count == 1 and session.device == "cpu",
        has_blocks=has_blocks,
        compile_seconds=cost.compile_seconds,
    )


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


def with_length(
    config: ResolvedConfig,
    steps: int,
    warm_up_epochs: float,
    fitted: Mapping[str, Any] | None,
    *,
    rules: Sequence[LengthRule] | None = None,
) -> ResolvedConfig:
    """Set the length of a training, in its recipe and, for runs that are resolved anew, among its overrides.

    Args:
        config: resolved; its option `time` is removed.
        steps, warm_up_epochs: of the training.
        fitted: time to which they were fitted, as run.json stores it.
        rules: of the recipe, which are applied whatever the epochs of a run; None: each run applies those it reaches.
    """
    overrides = length_overrides(steps, warm_up_epochs)
    if rules is not None and config.recipe.by_length is not None:
        overrides += rule_overrides(config, rules)
    plain = _without_time(config)
    options: Options = {**plain.options, "overrides": [*(config.options.get("overrides") or ()), *overrides]}
    recipe = apply_overrides(config.recipe, overrides)
    return replace(plain.with_resolved(options=options, recipe=recipe), fitted=fitted)
