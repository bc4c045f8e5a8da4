"""Time several parts in turn, so that disturbances of the machine affect all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lgkd.training.timing import synchronise

# A lap is about as long, unless the number of steps is given: long against the clock, short against a bench.
_SECONDS_A_LAP = 0.5
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Spread:
    """Hold the median and the extremes of some measured numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one number."""
        return cls(statistics.median(values), min(values), max(values))

    def as_dict(self) -> dict[str, float]:
        """Return a dictionary for the JSON document."""
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Part:
    """Describe one timed part.

    Attributes:
        name: of the part.
        images: that one step takes.
        lap: runs so many steps and returns the seconds that they took.
    """

    name: str
    images: int
    lap: Callable[[int], float]


@dataclass(frozen=True)
class Timing:
    """Hold the times of a part.

    Attributes:
        images: of one step.
        steps: of one lap.
        seconds: of one step, in every round.
    """

    images: int
    steps: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> Spread:
        """Return images a second."""
        return Spread.of([self.images / seconds for seconds in self.seconds])

    def over(self, other: "Timing") -> Spread:
        """Return the speed-up over another part, round by round."""
        mine, theirs = ([one.images / seconds for seconds in one.seconds] for one in (self, other))
        return Spread.of([a / b for a, b in zip(mine, theirs, strict=True)])

    def as_dict(self) -> dict[str, object]:
        """Return a dictionary for the JSON document."""
        return {
            "images_per_second": self.rate.as_dict(),
            "seconds_per_step": Spread.of(self.seconds).as_dict(),
            "images_per_step": self.images,
            "steps_per_lap": self.steps,
        }


def timed(go: Callable[[], object], device: str) -> Callable[[int], float]:
    """Time a lap of calls of `go`. One call before it is not timed: it fills caches and prefetchers."""

    def lap(steps: int) -> float:
        go()
        synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            go()
        synchronise(device)
        return time.perf_counter() - began

    return lap


def measure(parts: Sequence[Part], *, steps: int | None, repeats: int) -> dict[str, Timing]:
    """Time the parts in turn: A B C A B C ...

    Args:
        parts: with distinct names.
        steps: of a lap; None for as many as take about half a second.
        repeats: rounds.
    """
    chosen = {}
    for part in parts:
        trial = part.lap(1)  # also warms up: code is made and memory taken at the first call
        if steps is None:
            trial = min(trial, part.lap(1)) if trial < _SECONDS_A_LAP else trial
        chosen[part.name] = steps or max(1, min(_MOST_STEPS, round(_SECONDS_A_LAP / max(trial, 1e-9))))
    seconds: dict[str, list[float]] = {part.name: [] for part in parts}
    for _ in range(repeats):
        for part in parts:
            seconds[part.name].append(part.lap(chosen[part.name]) / chosen[part.name])
    return {part.name: Timing(part.images, chosen[part.name], tuple(seconds[part.name])) for part in parts}
