"""Train several seeds or folds, with or without a baseline: one folder with a run each, and their comparison.

A run is unguided, or guided, or that of a teacher; for each seed and fold the first two start from the same weights and
see the same images in the same order and augmentation. Finished runs are kept unchanged, so the same call resumes
wherever it was stopped.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType

from lgkd._internal.atomic_io import write_json
from lgkd._internal.distributed import agree, place, wait
from lgkd.config import load_recipe
from lgkd.errors import InputError, Interrupted, Paused
from lgkd.runner.fit_time import fit_time
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, resolve
from lgkd.runner.runner import Runner
from lgkd.runner.time_budget import check_equal
from lgkd.runner.timm_teacher import TimmTeacher
from lgkd.runs.compare import Comparison, compare
from lgkd.runs.compare.layout import COMPARISON, Kind, check_seeds, check_series, member
from lgkd.runs.compare.tables import write_csv, write_picture
from lgkd.runs.equal_length import Equal
from lgkd.runs.folder import RECIPE, is_finished

Watch = Callable[[str], AbstractContextManager[Options]]
"""Factory of a run's callbacks: from its title to a context manager with the options watchers, progress and say."""


@dataclass(frozen=True)
class Series:
    """Hold several runs that differ in seed, in the fold that they are tested on, and in whether they were guided.

    Attributes:
        folder: holds a folder of each, and comparison.json, .csv and .png.
        folders: those of the runs, in the order of training.
    """

    folder: Path
    folders: tuple[Path, ...]

    @cached_property
    def comparison(self) -> Comparison:
        """Compare the runs: mean, spread and interval of each kind; the gain of the guide where there is a baseline."""
        return compare(*self.folders)


@dataclass(frozen=True)
class SweepRun:
    """Represent one run of a sweep: its folder, its seed, whether a teacher guides it, and the fold it is tested on."""

    folder: Path
    seed: int
    guided: bool
    fold: int | None = None

    @property
    def title(self) -> str:
        """Return the title of its display, the name of its folder in words."""
        return " ".join(re.sub(r"([a-z])(\d)", r"\1 \2", part) for part in self.folder.name.split("-"))


@dataclass(frozen=True)
class SweepSpec:
    """Describe a sweep: one configuration, several seeds, with or without the same student unguided.

    With folds every seed is trained once for each fold.

    Attributes:
        config: resolved with `several`; its folder is that of all runs, and `max_time` counts for all together.
        seeds: at least one, each once.
        with_baseline: whether the same student is also trained unguided.
        equal: quantity that the unguided student has in common with the guided one where the option `time` is given:
            "steps", or "minutes": as many steps as fit in the same time, measured for itself.
        baseline_overrides: "a.b=value" each, changes of the recipe for the unguided student alone, such as a rate that
            is better for it.
        names_fold: folders have the number of the only fold, too, so that those of others can stand beside them.

    Raises:
        InputError: invalid seeds, a seed beside them, or equal minutes without a time or a baseline.
    """

    config: ResolvedConfig
    seeds: tuple[int, ...]
    with_baseline: bool = False
    equal: Equal = "steps"
    baseline_overrides: tuple[str, ...] = ()
    names_fold: bool = False

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        time, two = self.config.options.get("time"), self.with_baseline and bool(self.config.teachers)
        check_equal(self.equal, time, with_baseline=two)
        if (seed := self.config.options.get("seed")) is not None:
            raise InputError(f"seed={seed} was given beside seeds={list(self.seeds)}; leave one of them out")

    @property
    def runs(self) -> list[SweepRun]:
        """List the runs in the order of training: seed by seed, fold by fold, guided before unguided."""
        kinds: list[Kind] = ["guided"] if self.config.teachers else []
        if self.with_baseline or not kinds:
            kinds.append("teacher" if self.config.role == "teacher" else "unguided")
        folder, only = self.config.folder, self.config.subset.fold if self.names_fold else None
        return [
            SweepRun(member(folder, seed, kind, fold or only), seed, kind == "guided", fold)
            for seed in self.seeds
            for fold in self.folds
            for kind in kinds
        ]

    @property
    def folds(self) -> list[int | None]:
        """Return the folds to train for; a single None where the images are not divided, or one was named."""
        subset = self.config.subset
        return [None] if subset.fold is not None else [part.fold for part in subset.each_fold] or [None]


def train_all(spec: SweepSpec, *, watch: Watch | None = None) -> Series:
    """Train every seed, guided before unguided, and compare the results.

    Args:
        spec: the trainings.
        watch: makes the callbacks of a run; see `Watch`.

    Raises:
        TakenError: the folder holds something else, or a run that differs.
        Paused, Interrupted: the same call resumes the sweep.
    """
    folder, runs = spec.config.folder, spec.runs
    check_series(folder)
    options = spec.config.options
    # All runs of an arm have the same steps, measured once; their seeds and folders are their own.
    first = runs[0]
    if first.fold is not None:
        # A teacher that is in the store is refused before the first is trained.
        for one in runs:
            config_of(spec.config, one)
    config = unguided = _fitted(fit_time(config_of(spec.config, first)), spec.config)
    if spec.equal == "minutes":
        timed = fit_time(config_of(spec.config, next(one for one in runs if not one.guided)))
        own: Options = {**config.options, "overrides": timed.options["overrides"]}
        unguided = replace(config, options=own, fitted=timed.fitted)
    elif config.fitted is not None and config.teachers:
        unguided = replace(config, fitted={**config.fitted, "timed": "guided"})

    if spec.baseline_overrides:
        changed: Options = {
            **unguided.options,
            "overrides": [*(unguided.options.get("overrides") or ()), *spec.baseline_overrides],
        }
        unguided = replace(unguided, options=changed)

    def queued(one: SweepRun) -> QueuedRun:
        def train(callbacks: Options, began: float) -> float:
            arm = config_of(config if one.guided else unguided, one)
            return Runner(arm.with_options(**callbacks), began=began).run(keep=True).top1

        return QueuedRun(one.folder.name, one.title, lambda: is_finished(one.folder), train)

    train_in_turn([queued(one) for one in runs], watch=watch, max_time=options.get("max_time"), say=options.get("say"))
    series = Series(folder, tuple(one.folder for one in runs))
    if place().rank == 0:
        write_comparison(series)
    return series


def write_comparison(series: Series) -> None:
    """Write comparison.json, .csv and .png of finished runs into their folder."""
    folder = series.folder
    write_json(folder / f"{COMPARISON}.json", series.comparison.as_dict())
    write_csv(series.comparison, folder / f"{COMPARISON}.csv")
    write_picture(series.comparison, folder / f"{COMPARISON}.png")


@dataclass(frozen=True)
class QueuedRun:
    """Represent one training of several that are run in turn.

    Attributes:
        name: in messages.
        title: of its display.
        finished: true where nothing is left to train.
        train: called with the callbacks and the `time.monotonic()` at which all began; trains the run, or checks a
            finished one; returns its top-1 accuracy on the test split.
    """

    name: str
    title: str
    finished: Callable[[], bool]
    train: Callable[[Options, float], float]


def train_in_turn(
    runs: Sequence[QueuedRun],
    *,
    watch: Watch | None = None,
    max_time: float | None = None,
    say: Callable[[str], None] | None = None,
    counted: bool = True,
) -> None:
    """Train the unfinished ones of several runs; wherever it is stopped, the same call resumes.

    Args:
        runs: in the order of training.
        watch: makes the callbacks of a run; see `Watch`.
        max_time: in seconds, for all runs together.
        say: called with a message on a finished run where `watch` makes no such callback.
        counted: whether titles start with the number of the run.

    Raises:
        Paused, Interrupted: the time is up or a signal came between two runs.
    """
    began = time.monotonic()
    trained, said = 0, set[str]()
    for number, one in enumerate(runs, 1):
        finished = one.finished()
        if trained and not finished:
            check_time(began, max_time)
        trained += not finished
        title = f"{number}/{len(runs)} {one.title}" if counted else one.title
        with (watch or no_callbacks)(title) as callbacks, signals_between():
            callbacks = said_once(callbacks, said)
            top1 = one.train(callbacks, began)
            if finished and (notify := callbacks.get("say", say)) is not None:
                notify(f"{one.name} is finished: {top1:.2%}")
    wait()


def _fitted(fitted: ResolvedConfig, config: ResolvedConfig) -> ResolvedConfig:
    """Return a fitted run's configuration without its seed and folder, which those of the sweep replace."""
    own: Options = {**fitted.options}
    own.pop("seed", None)
    own.pop("out", None)
    if config.options.get("fold") is None:
        own.pop("fold", None)
    if (out := config.options.get("out")) is not None:
        own["out"] = out
    return replace(config.with_resolved(options=own, recipe=fitted.recipe), fitted=fitted.fitted)


def config_of(config: ResolvedConfig, run: SweepRun) -> ResolvedConfig:
    """Make the configuration of one run.

    That of a baseline is resolved again, since it has another recipe, and that of a fold, which has its own teachers.
    """
    baseline = bool(config.teachers) and not run.guided
    if not baseline and run.fold is None:
        return config.with_options(seed=run.seed, out=run.folder)
    options: Options = {**config.options, "seed": run.seed, "out": run.folder}
    if run.fold is not None:
        options["fold"] = run.fold
    if not baseline:
        resolved = resolve(
            config.role,
            config.model,
            config.dataset,
            options,
            model_options=config.model_options,
            teachers=[
                teacher[0].architecture
                if isinstance(teacher, tuple)
                else teacher.name
                if isinstance(teacher, TimmTeacher)
                else teacher
                for teacher in config.teachers
            ],
            taps=config.taps,
            # The teacher of a finished run is in the store, and stays.
            replace=config.replace or is_finished(run.folder),
        )
        return replace(resolved, fitted=config.fitted, replace=config.replace)
    options.pop("approximate", None)
    options.pop("teacher_weights", None)
    guided = member(config.folder, run.seed, "guided", run.fold)
    if options.pop("cached", None) is not None and is_finished(guided):
        # A baseline sees the same fixed views as a guided run with a cache.
        fixed = load_recipe(guided / RECIPE).view.fixed
        options["overrides"] = [*(options.get("overrides") or ()), f"view.fixed={'null' if fixed is None else fixed}"]
    resolved = resolve(config.role, config.model, config.dataset, options, model_options=config.model_options)
    return replace(resolved, fitted=config.fitted)


def check_time(began: float, max_time: float | None) -> None:
    """Start no further run when the time is up; a started one checks the clock itself."""
    up = max_time is not None and time.monotonic() - began >= max_time
    if agree(up or None):
        raise Paused(f"paused after {max_time:g} seconds between two runs; run the same command again to resume")


@contextmanager
def signals_between() -> Iterator[None]:
    """Handle signals while no training loop does, before and after a run; nothing is lost by stopping at once."""

    def leave(number: int, _frame: FrameType | None) -> None:
        message = f"stopped by {signal.Signals(number).name} between two runs; run the same command again to resume"
        if number == signal.SIGTERM:
            raise Interrupted(message, number)
        raise Paused(message)

    former = {}
    for name in ("SIGTERM", "SIGUSR1"):
        try:
            former[name] = signal.signal(getattr(signal, name), leave)
        except (AttributeError, ValueError):  # no such signal on this system, or not in the main thread
            break
    try:
        yield
    finally:
        for name, handler in former.items():
            signal.signal(getattr(signal, name), handler)


def said_once(options: Options, said: set[str]) -> Options:
    """Return the callbacks, with a `say` that skips messages of earlier runs."""
    say = options.get("say")
    if say is None:
        return options

    def once(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            say(sentence)

    return {**options, "say": once}


def no_callbacks(_title: str) -> AbstractContextManager[Options]:
    """Make no callbacks."""
    return nullcontext({})
