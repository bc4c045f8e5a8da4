"""The frame: parts, their trials, and how both are counted."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.torture.arena import Arena


class Lost(Exception):
    """A trial that was lost; says what was found and what was expected."""


def expect(good: bool, message: str) -> None:
    """Lose the trial unless `good`."""
    if not good:
        raise Lost(message)


@dataclass
class Trials:
    """The trials of one part.

    Attributes:
        wanted: how many are made at most.
        draw: chance; the same seed draws the same.
        deadline: `time.monotonic()` after which none is begun.
        made: so many were made.
        failures: what was lost, a sentence each.
        seen: how often something was met, such as a phase in which a kill fell.
    """

    wanted: int
    draw: random.Random
    deadline: float
    made: int = 0
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def left(self) -> bool:
        """Whether another trial is to be made."""
        return self.made < self.wanted and time.monotonic() < self.deadline

    @contextmanager
    def one(self, label: str) -> Iterator[None]:
        """A trial; lost if `Lost` or anything unforeseen is raised in it."""
        self.made += 1
        with self.judging(label):
            yield

    @contextmanager
    def judging(self, label: str) -> Iterator[None]:
        """What belongs to no single trial, such as the end of a run that was killed many times."""
        try:
            yield
        except Exception as error:
            self.failures.append(f"{label}: {error if isinstance(error, Lost) else repr(error)}")


@dataclass(frozen=True)
class Part:
    """One row of the fault table.

    Attributes:
        name: as it is called on the command line.
        row: of the table of faults.
        passes: what a trial has to show.
        trials: how many are made unless told otherwise.
        run: makes them.
    """

    name: str
    row: str
    passes: str
    trials: int
    run: Callable[["Arena", Trials], None]


PARTS: dict[str, Part] = {}


def part(name: str, row: str, passes: str, trials: int) -> Callable[[Callable[["Arena", Trials], None]], Part]:
    """Register a function as the part of that name."""

    def register(run: Callable[["Arena", Trials], None]) -> Part:
        assert name not in PARTS, name
        PARTS[name] = Part(name, row, passes, trials, run)
        return PARTS[name]

    return register
