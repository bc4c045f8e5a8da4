"""The engine of sweeps, experiments and the quickstart, on runs that only take notes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lgkd.errors import Paused
from lgkd.runner.options import Options
from lgkd.runner.sweep import QueuedRun, train_in_turn


def queue(*names: str, done: tuple[str, ...] = ()) -> tuple[list[QueuedRun], list[str]]:
    trained: list[str] = []

    def queued(name: str) -> QueuedRun:
        def train(callbacks: Options, began: float) -> float:
            trained.append(name)
            if (say := callbacks.get("say")) is not None:
                say("the same images")
            return 0.5

        return QueuedRun(name, f"run {name}", lambda: name in done, train)

    return [queued(name) for name in names], trained


def watching(titles: list[str], heard: list[str]) -> Callable[[str], object]:
    @contextmanager
    def watch(title: str) -> Iterator[Options]:
        titles.append(title)
        yield {"say": heard.append}

    return watch


def test_runs_are_trained_in_order_and_what_two_say_is_said_once() -> None:
    titles, heard = list[str](), list[str]()
    runs, trained = queue("a", "b", "c", done=("b",))
    train_in_turn(runs, watch=watching(titles, heard))
    assert trained == ["a", "b", "c"], "a finished run is checked by its own function"
    assert titles == ["1/3 run a", "2/3 run b", "3/3 run c"]
    assert heard == ["the same images", "b is finished: 50.00%"]


def test_titles_need_not_be_counted_and_a_finished_run_is_told_without_a_display() -> None:
    titles, heard = list[str](), list[str]()
    train_in_turn(queue("a")[0], watch=watching(titles, []), counted=False)
    train_in_turn(queue("a", "b", done=("a",))[0], say=heard.append)
    assert titles == ["run a"]
    assert heard == ["a is finished: 50.00%"]


def test_when_the_time_is_up_no_further_run_begins_but_finished_ones_cost_nothing() -> None:
    runs, trained = queue("a", "b", "c", "d", done=("a", "c"))
    with pytest.raises(Paused, match="paused after 0 seconds between two runs; run the same command"):
        train_in_turn(runs, max_time=0.0)
    assert trained == ["a", "b", "c"], "one is trained a call, so that repeating it comes to an end"
