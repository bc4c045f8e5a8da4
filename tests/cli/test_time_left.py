"""The time to the end of several trainings, against sums by hand: in turn, side by side, resumed, promised."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from lgkd.cli.board import Board
from lgkd.cli.display import Display
from lgkd.cli.progress_line import Standing, live_line, plain_line
from lgkd.cli.time_left import PromisedTime, TrainingsLeft, arm_of
from tests.support.comparing import make_run
from tests.support.screen import row, shown_on, terminal

FOUR = ["seed 0 guided", "seed 0 unguided", "seed 1 guided", "seed 1 unguided"]


@dataclass
class Training:
    total: float | None = None
    remaining: float | None = None


def waiting(*titles: str) -> list[tuple[str, float | None, bool]]:
    return [(title, None, False) for title in titles]


def test_the_rest_is_estimated_from_the_running_training_and_then_from_those_of_its_arm() -> None:
    left = TrainingsLeft(waiting(*FOUR))
    assert left.left() is None
    guided = Training()
    left.begin(guided)
    assert left.left() is None
    guided.total, guided.remaining = 100.0, 75.0
    assert left.left() == 75 + 3 * 100
    guided.remaining = 0.0
    left.end(guided)
    unguided = Training(40.0, 40.0)
    left.begin(unguided)
    # Seed 1: guided as seed 0, and unguided as the running one.
    assert left.left() == 40 + 100 + 40
    left.end(unguided)
    assert (left.left(), left.finished) == (100 + 40, 2)


def test_trainings_side_by_side_share_the_rest_and_the_longest_is_waited_for() -> None:
    left = TrainingsLeft(waiting(*FOUR))
    first, second = Training(100.0, 50.0), Training(100.0, 70.0)
    left.begin(first, 2)
    left.begin(second, 0)
    assert left.left() == (50 + 70 + 100 + 100) / 2
    left.end(first)
    left.end(second)
    last, other = Training(100.0, 90.0), Training(100.0, 10.0)
    left.begin(last, 1)
    left.begin(other, 3)
    assert left.left() == 90


def test_finished_runs_of_an_earlier_call_count_as_finished_and_say_how_long_the_others_take(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("guided", "unguided", "guided-1", "unguided-1")]
    make_run(folders[0], 0.5, guided=True, results={"training_seconds": 90.0, "evaluation_seconds": 10.0})
    make_run(folders[1], 0.5, results={"training_seconds": 30.0})
    (folders[2]).mkdir()
    left = TrainingsLeft.of_folders(zip(FOUR, folders, strict=True))
    assert (left.finished, left.left()) == (2, 100 + 30)
    checked = Training()  # a finished run is opened, and nothing of it is trained
    left.begin(checked)
    left.end(checked)
    assert (left.finished, left.left()) == (2, 100 + 30)


def test_seed_and_fold_make_no_other_arm() -> None:
    assert {arm_of(title) for title in ("2/4 seed 0 guided", "seed 11 fold 2 guided", "seed0 guided")} == {"guided"}
    assert arm_of("g-conv seed 3") == "g-conv"


def test_a_promised_time_is_counted_down() -> None:
    clock = [100.0]
    left = PromisedTime(60.0, clock=lambda: clock[0])
    clock[0] = 145.0
    assert left.left() == 15
    clock[0] = 200.0
    assert left.left() == 0


NOW = Standing(
    "12/16 seed 10 fold 3 unguided", 30, 300, done=29.5, left=4980.0, own=300.0, top1=0.25, balanced=0.125,
    train={"loss": 2.125, "classification": 1.5, "guidance_linear": 0.25, "standardized-kd": 0.5, "accuracy": 0.5},
    images_per_second=1234.5, memory=1_250_000_000,
)  # fmt: skip


def test_80_columns_keep_seed_fold_arm_and_the_time_of_the_whole() -> None:
    line = live_line(NOW, 80)
    assert line.startswith("12/16 s10 f3 unguided 30/300 1h23m left test 25.0%") and len(line) <= 80
    wide = live_line(NOW, 200)
    assert wide.startswith("12/16 seed 10 fold 3 unguided ") and " 5m00s of 1h23m left " in wide
    assert plain_line(NOW).endswith(", 5m00s of 1h23m left")


@pytest.mark.parametrize("width", [80, 200])
def test_runs_in_turn_show_the_time_of_all(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = TrainingsLeft(waiting(*FOUR))
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", str(width))
        for number, title in enumerate(FOUR[:2], 1):
            with Display(f"{number}/4 {title}", everything=everything) as display:
                display.on_start(10, 5)
                display.on_epoch(row(1, test_top1=0.5))
                display.on_epoch(row(2))
    lines = [line.rstrip() for line in shown_on(screen) if line.strip()]
    assert max(map(len, lines)) <= width
    # An epoch takes a second: eight of this training are left, and of two others ten each.
    left = "8s of 28s left" if width == 200 else "28s left"
    assert f" {left} test 50.0%" in lines[-1]
    assert "seed 0 unguided" in lines[-1] or lines[-1].startswith("2/4 s0 unguided ")
    assert any("38s left" in line and "guided" in line for line in lines)


@pytest.mark.parametrize("width", [80, 200])
def test_runs_side_by_side_show_the_time_of_all_below_their_lines(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", str(width))
        with Board(FOUR) as board, board.watch(FOUR[0]) as first, board.watch(FOUR[1]) as second:
            for progress in (first, second):
                progress.on_start(10, 5)
                progress.on_epoch(row(1, test_top1=0.5))
    lines = [line.rstrip() for line in shown_on(screen) if line.strip()]
    assert max(map(len, lines)) <= width
    # Both have left after one epoch of ten; the other two take ten seconds each, side by side.
    assert "2 of 4 trainings finished, 10s left" in lines
    rows = [line for line in lines if line.startswith("seed 0")]
    assert {" ".join(line.split()[:3]) for line in rows} == {"seed 0 guided", "seed 0 unguided"}
    assert all("left" not in line for line in rows)
