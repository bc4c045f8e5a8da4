"""Several seeds of one training, with or without its baseline: one folder with a run each, and what they come to.

A run is unguided, or guided; for each seed the two start from the same weights and see the same images in the same
order and augmentation. Finished runs are kept as they are, so that the same call goes on wherever it was stopped.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from lgkd._internal.atomic_io import write_json
from lgkd._internal.distributed import agree, place, wait
from lgkd.config import load_recipe
from lgkd.errors import InputError, Interrupted, Paused
from lgkd.models.teacher import Teacher
from lgkd.runner.options import Options
from lgkd.runner.resolve import run_folder, settle
from lgkd.runner.run import Run
from lgkd.runner.runner import Job
from lgkd.runs.compare import Comparison, compare
from lgkd.runs.compare.layout import COMPARISON, check_seeds, check_series, member
from lgkd.runs.compare.tables import write_csv, write_picture
from lgkd.runs.folder import RECIPE, is_finished

Watch = Callable[[str], AbstractContextManager[Options]]
"""Given the title of a run, a context manager with the options that look on: watchers, progress, say."""


@dataclass(frozen=True)
class Series:
    """Several runs that differ in seed, and in whether they were guided.

    Attributes:
        folder: holds a folder of each, and comparison.json, .csv and .png.
        folders: those of the runs, in the order in which they were trained.
    """

    folder: Path
    folders: tuple[Path, ...]

    @cached_property
    def comparison(self) -> Comparison:
        """Mean, spread and interval of each kind; the gain of the guide where there is a baseline."""
        return compare(*self.folders)


@dataclass(frozen=True)
class Repeated:
    """What is trained with every seed.

    Attributes:
        student: its name; every seed makes a new one.
        dataset: a name, a folder, or a loaded `DataSet`.
        teachers: that guide; none for unguided runs.
        taps: layers of the student.
        student_options: reach the constructor.
        options: see `Options`; `out` is the folder of all runs, and `max_time` counts for all together.
        with_baseline: whether the same student is trained unguided, too.
    """

    student: str
    dataset: Any
    teachers: tuple[str | Teacher, ...]
    taps: tuple[str, ...] | None
    student_options: Mapping[str, Any] | None
    options: Options
    with_baseline: bool = False


def train_all(wanted: Repeated, seeds: Sequence[int], *, watch: Watch | None = None) -> Series:
    """Train every seed, guided before unguided, and compare what came of it.

    Args:
        wanted: the training.
        seeds: at least one, each once.
        watch: looks on; see `Watch`.

    Raises:
        InputError: seeds or choices that make no sense.
        TakenError: the folder holds something else, or a run that differs.
        Paused, Interrupted: the same call goes on.
    """
    began = time.monotonic()
    seeds = check_seeds(seeds)
    if (seed := wanted.options.get("seed")) is not None:
        raise InputError(f"seed={seed} was given beside seeds={list(seeds)}; leave one of them out")
    folder = series_folder(wanted)
    check_series(folder)
    kinds = [
        kind for kind, asked in ((True, wanted.teachers), (False, wanted.with_baseline or not wanted.teachers)) if asked
    ]
    todo = [(seed, guided) for seed in seeds for guided in kinds]
    trained, folders, said = 0, [], set[str]()
    for number, (seed, guided) in enumerate(todo, 1):
        one = member(folder, seed, guided=guided)
        folders.append(one)
        finished = is_finished(one)
        if trained and not finished:
            check_time(began, wanted.options.get("max_time"))
        trained += not finished
        title = f"{number}/{len(todo)} seed {seed} {'guided' if guided else 'unguided'}"
        with (watch or nobody)(title) as looking, signals_between():
            options: Options = {**wanted.options, **said_once(looking, said), "seed": seed, "out": one}
            run = _train(wanted, options, began, guided=guided)
            if finished and (say := options.get("say")) is not None:
                say(f"{one.name} is finished: {run.top1:.2%}")
    wait()
    series = Series(folder, tuple(folders))
    if place().rank == 0:
        write_json(folder / f"{COMPARISON}.json", series.comparison.as_dict())
        write_csv(series.comparison, folder / f"{COMPARISON}.csv")
        write_picture(series.comparison, folder / f"{COMPARISON}.png")
    return series


def series_folder(wanted: Repeated) -> Path:
    """Where the runs go: `out`, or a folder below runs/ that is named after the choices."""
    options = wanted.options
    if not isinstance(wanted.student, str):
        raise InputError(
            f"the student is a {type(wanted.student).__name__}, which can be trained once; for several seeds give a "
            "name or package.module:factory, so that each begins with a new one"
        )
    out = options.get("out")
    if out is not None:
        return Path(out)
    names = [teacher for teacher in wanted.teachers if isinstance(teacher, str)]
    dataset = getattr(wanted.dataset, "name", wanted.dataset)
    own = not isinstance(wanted.dataset, str | Path)
    settled = settle(
        "student", wanted.student, None if own else dataset, options, teachers=names, guided=bool(wanted.teachers)
    )
    cards = iter(settled.cards)
    by = [next(cards).name if isinstance(one, str) and not own else _called(one) for one in wanted.teachers]
    return run_folder(
        wanted.student, dataset, settled.subset, "+".join(by) or None, options["recipe"], None, options.get("extra")
    )


def _called(teacher: str | Teacher) -> str:
    if isinstance(teacher, str):
        return teacher
    return teacher.card.name if teacher.card else type(teacher.model).__name__


def _train(wanted: Repeated, options: Options, began: float, *, guided: bool) -> Run:
    if not guided:
        options = _without_guide(options, member(Path(str(options["out"])).parent, options["seed"], guided=True))
    job = Job("student", wanted.student, wanted.student_options, wanted.dataset, options, began=began)
    return job.run(teachers=wanted.teachers if guided else (), taps=wanted.taps if guided else None, keep=True)


def _without_guide(options: Options, guided: Path) -> Options:
    """The options of a baseline: it sees the very views that a guided run with a cache was shown in turn."""
    plain: Options = {**options}
    plain.pop("approximate", None)
    if plain.pop("cached", None) is not None and is_finished(guided):
        fixed = load_recipe(guided / RECIPE).view.fixed
        plain["overrides"] = [*(options.get("overrides") or ()), f"view.fixed={'null' if fixed is None else fixed}"]
    return plain


def check_time(began: float, max_time: float | None) -> None:
    """Begin no further run when the time is up; one that has begun looks at the clock itself."""
    up = max_time is not None and time.monotonic() - began >= max_time
    if agree(up or None):
        raise Paused(f"paused after {max_time:g} seconds between two runs; the same command goes on")


@contextmanager
def signals_between() -> Iterator[None]:
    """While a run gets ready or is being put away its loop takes no signals; nothing is lost by stopping at once."""

    def leave(number: int, _frame: FrameType | None) -> None:
        message = f"stopped by {signal.Signals(number).name} between two runs; the same command goes on"
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
    """The options that look on, with a `say` that leaves out what another run has said."""
    say = options.get("say")
    if say is None:
        return options

    def once(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            say(sentence)

    return {**options, "say": once}


def nobody(_title: str) -> AbstractContextManager[Options]:
    """The one who looks on where nobody does."""
    return nullcontext({})
