"""Estimate the time to the end of several trainings, in turn or side by side. No rich and no torch here."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lgkd.errors import LgkdError
from lgkd.runs.folder import is_finished, read_run

_NUMBERS = re.compile(r"\b(?:seed|fold) ?\d+\b|^\d+/\d+ ")


class Paced(Protocol):
    """Describe a training whose speed is known or not: seconds of the whole training, and of what is left of it."""

    @property
    def total(self) -> float | None:
        """Return the estimated seconds of the whole training; None where unknown."""

    @property
    def remaining(self) -> float | None:
        """Return the estimated seconds to its end; None where unknown."""


class TimeLeft(Protocol):
    """Estimate the seconds to the end of everything, of which a training is a part."""

    def begin(self, training: Paced) -> None:
        """Start the next training of the list."""

    def end(self, training: Paced) -> None:
        """Finish a training, or leave it."""

    def left(self) -> float | None:
        """Return the seconds; None where nothing is known yet."""


@dataclass
class _Entry:
    arm: str
    seconds: float | None
    training: Paced | None = None
    finished: bool = False


class TrainingsLeft:
    """Estimate the time to the end of a list of trainings from those that have finished and those that are running.

    A waiting training is taken to be as long as the others of its arm, and before one of these has run, as the mean of
    all. Trainings side by side share the waiting ones.

    Args:
        trainings: in their order: title, seconds that it took where it is finished, and whether it is.
    """

    def __init__(self, trainings: Iterable[tuple[str, float | None, bool]]) -> None:
        self._entries = [_Entry(arm_of(title), seconds, finished=done) for title, seconds, done in trainings]
        self._next = 0
        self._side_by_side = 1

    @classmethod
    def of_folders(cls, runs: Iterable[tuple[str, Path]]) -> "TrainingsLeft":
        """Read which runs are finished, and how long these took.

        Args:
            runs: title and folder of each.
        """
        return cls((title, *_finished(folder)) for title, folder in runs)

    def begin(self, training: Paced, place: int | None = None) -> None:
        """Start the training at a place of the list, by default the next one."""
        at = self._next if place is None else place
        self._next = at + 1
        if at < len(self._entries):
            self._entries[at].training = training
        self._side_by_side = max(self._side_by_side, len(self._running()))

    def end(self, training: Paced) -> None:
        """Finish a training; what it took serves as estimate for others."""
        for entry in self._entries:
            if entry.training is training:
                entry.training, entry.finished = None, True
                entry.seconds = training.total if training.total is not None else entry.seconds

    @property
    def finished(self) -> int:
        """Return the number of finished trainings."""
        return sum(entry.finished for entry in self._entries)

    def left(self) -> float | None:
        """Return the seconds to the end of the last training; None where no training gives an estimate yet."""
        running = [self._remaining(entry) for entry in self._running()]
        waiting = [self._expected(entry) for entry in self._entries if entry.training is None and not entry.finished]
        found = [*running, *waiting]
        known = [seconds for seconds in found if seconds is not None]
        if len(known) < len(found):
            return None
        return max(sum(known) / self._side_by_side, *known) if known else 0.0

    def _running(self) -> list[_Entry]:
        return [entry for entry in self._entries if entry.training is not None and not entry.finished]

    def _remaining(self, entry: _Entry) -> float | None:
        left = entry.training.remaining if entry.training is not None else None
        return self._expected(entry) if left is None else left

    def _expected(self, entry: _Entry) -> float | None:
        """Return the seconds of a training by those of its arm, else by those of all."""
        alike = [one for other in self._entries if other.arm == entry.arm and (one := _seconds(other)) is not None]
        known = alike or [one for other in self._entries if (one := _seconds(other)) is not None]
        return sum(known) / len(known) if known else None


class PromisedTime:
    """Count down a time that everything takes together, as that of `lgkd fit --time`.

    Args:
        seconds: that are left now.
        clock: returns seconds.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def begin(self, training: Paced) -> None:
        """Do nothing: the end is fixed."""

    def end(self, training: Paced) -> None:
        """Do nothing: the end is fixed."""

    def left(self) -> float:
        """Return the seconds to the promised end; 0 after it."""
        return max(0.0, self._end - self._clock())


def arm_of(title: str) -> str:
    """Return the title of a training without its number, seed and fold, equal for trainings of equal length."""
    return " ".join(_NUMBERS.sub("", title).split())


def _seconds(entry: _Entry) -> float | None:
    return entry.training.total if entry.training is not None else entry.seconds


def _finished(folder: Path) -> tuple[float | None, bool]:
    """Return the seconds of a finished run, and whether it is one; a damaged one is reported where it is opened."""
    try:
        if not is_finished(folder):
            return None, False
        results = read_run(folder)["results"]
        return float(results["training_seconds"]) + float(results.get("evaluation_seconds", 0.0)), True
    except (LgkdError, OSError, KeyError, TypeError, ValueError):
        return None, False
