"""The display of several trainings: one order whatever overtakes what, on terminals of every width and in files."""

import time

import pytest

from lgkd.cli.board import Board
from lgkd.cli.display import Progress
from lgkd.training.callbacks import EpochRow
from tests.support.screen import row, shown_on, terminal

TITLES = ["seed 0 teacher", "seed 0 guided", "seed 1 teacher"]


def overtaken(board: Board) -> None:
    """The last training ends first, and the second one begins when the first has ended."""
    with board.watch(TITLES[0]) as first:
        first.on_start(2, 5)
        first.on_step(0, 1, row(1).train, 10.0)
        with board.watch(TITLES[2]) as third:
            train(third)
        first.on_epoch(row(1))
        first.on_epoch(row(2, test_top1=0.125))
    with board.watch(TITLES[1]) as second:
        train(second)


def train(progress: Progress) -> None:
    progress.on_start(2, 5)
    progress.on_epoch(row(1))
    progress.on_epoch(row(2, test_top1=0.125))


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_ends_with_one_line_of_its_width_for_each_training_in_order(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", str(width))
        with Board(TITLES) as board:
            overtaken(board)
    lines = [line.rstrip() for line in shown_on(screen) if line.strip()]
    assert max(map(len, lines)) <= width
    # A line that has ended is printed once more when it leaves the live part.
    ends = [line.partition(" 2/2 ")[0].rstrip("━ ") for line in lines if " 2/2 " in line and "test 12.5%" in line]
    order = [title for title, before in zip(ends, [None, *ends], strict=False) if title != before]
    assert order[-2:] == TITLES[1:] and TITLES[0] in order
    assert order.index(TITLES[0]) < order.index(TITLES[1])


def test_a_file_has_one_line_for_each_training_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(TITLES) as board:
        overtaken(board)
    out, err = capsys.readouterr()
    assert out == "" and [line.partition(" epoch")[0].rstrip() for line in err.splitlines()] == TITLES
    assert all(" epoch 2/2 test 12.5% " in line for line in err.splitlines())


def test_a_long_training_writes_a_line_into_a_file_every_half_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Board(["x"]) as board, board.watch("x") as progress:
        progress.on_start(100, 5)
        for epoch in range(1, 101):
            clock[0] += 10.0
            progress.on_epoch(row(epoch))
    epochs = [int(line.split()[2].partition("/")[0]) for line in capsys.readouterr().err.splitlines()]
    assert epochs == [*range(4, 100, 4), 100]


def test_memory_is_that_which_the_training_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(["x"]) as board, board.watch("x") as progress:
        progress.on_start(1, 5)
        progress.on_epoch(EpochRow(1, 0.1, {"loss": 1.0, "accuracy": 0.5}, memory_mb=98_700.0))
    assert "RAM 98.7 GB" in capsys.readouterr().err


def test_a_run_that_fails_or_was_finished_before_or_is_quiet_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(TITLES) as board:
        with board.watch(TITLES[0]):
            pass  # finished by an earlier call
        with pytest.raises(KeyboardInterrupt), board.watch(TITLES[1]) as progress:
            progress.on_start(2, 5)
            raise KeyboardInterrupt
        with board.watch(TITLES[2]) as progress:
            train(progress)
    with Board(TITLES, quiet=True) as board:
        overtaken(board)
    assert capsys.readouterr() == ("", "")
