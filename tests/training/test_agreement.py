"""When several processes agree on stopping and saving: seldom enough, often enough, and with one outcome."""

import itertools
from typing import Any

import pytest

from lgkd.errors import Paused
from lgkd.training import agreement
from lgkd.training.agreement import Agreement
from lgkd.training.signals import StopCondition


class Clocked:
    """A stop condition and a checkpointer by a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: float, *, processes: bool = True) -> None:
        self.time, self.asked, self.every, self.paused = 0.0, 0, every, None
        monkeypatch.setattr(agreement.time, "perf_counter", lambda: self.time)
        monkeypatch.setattr(agreement, "together", lambda: processes)
        monkeypatch.setattr(agreement, "highest", self.highest)
        self.others: list[float] = [0.0, -1e9, 0.0]
        self.agreement = Agreement(self, self)  # type: ignore[arg-type]

    def highest(self, values: list[float]) -> list[float]:
        self.asked += 1
        return [max(pair) for pair in zip(values, self.others, strict=True)]

    def reason(self) -> Paused | None:
        return self.paused

    def seconds_left(self) -> float:
        return self.every - self.time

    def steps(self, number: int, seconds: float) -> list[int]:
        """Take steps of so many seconds; those after which the others were asked."""
        found = []
        for step in range(number):
            self.time += seconds
            before = self.asked
            self.last = self.agreement.after_step()
            if self.asked > before:
                found.append(step)
        return found


def test_quick_steps_are_asked_about_every_twentieth_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Clocked(monkeypatch, 1e9).steps(62, 0.01) == [0, 20, 40, 60]


@pytest.mark.parametrize(("seconds", "apart"), [(0.25, 8), (0.5, 4), (1.5, 1), (5.0, 1)])
def test_slow_steps_are_asked_about_within_two_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, apart: int
) -> None:
    asked = Clocked(monkeypatch, 1e9).steps(25, seconds)
    assert {after - before for before, after in itertools.pairwise(asked)} == {apart}


def test_the_slowest_process_sets_the_pace_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch, 1e9)
    clocked.others[2] = 1.0
    assert clocked.steps(6, 0.01) == [0, 2, 4]


def test_those_who_save_after_every_step_are_asked_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch, 0.0)
    assert clocked.steps(5, 0.01) == [0, 1, 2, 3, 4]
    assert clocked.last == (None, True)


def test_what_another_process_wants_is_done_by_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked, reason = Clocked(monkeypatch, 1e9), Paused("there")
    monkeypatch.setattr(agreement, "agree", lambda own: own or reason)
    clocked.others = [1.0, 0.0, 0.0]
    assert clocked.steps(1, 0.01) == [0]
    assert clocked.last == (reason, True)


def test_one_process_answers_after_every_step_and_saves_nothing_without_a_checkpointer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocked = Clocked(monkeypatch, 0.5, processes=False)
    assert clocked.steps(3, 0.01) == [] and clocked.last == (None, False)
    clocked.paused = reason = Paused("here")
    clocked.steps(1, 1.0)
    assert clocked.last == (reason, True)
    alone: Any = Agreement(StopCondition(), None)
    assert alone.after_step() == (None, False)
