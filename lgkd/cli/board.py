"""Show several trainings, in turn or side by side: a line each, always in the same order."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lgkd.cli.display import LiveLines, Progress, console, duration, line_of, moves_cursor, progress_text
from lgkd.cli.progress_line import Standing, plain_line
from lgkd.cli.time_left import TrainingsLeft
from lgkd.training.callbacks import EpochRow

_SECONDS_BETWEEN_LINES = 30.0


class Board:
    """Show trainings: a terminal has live lines of the running ones below the finished ones, a file the finished ones.

    Finished lines are printed in the order of `titles`, in which trainings may overtake each other. Into a file, a
    training that takes long also writes a line every half minute. Use as a context manager.

    Args:
        titles: of all trainings.
        quiet: show nothing.
    """

    def __init__(self, titles: Sequence[str], *, quiet: bool = False) -> None:
        self._console = console(errors=True)
        self._live = moves_cursor(self._console) and not quiet
        width = max(map(len, titles), default=0)
        self._everything = TrainingsLeft((title, None, False) for title in titles) if len(titles) > 1 else None
        self._places, self._count = {title: place for place, title in enumerate(titles)}, len(titles)
        self._rows = {title: _Row(self, f"{title:<{width}}", quiet, self._everything) for title in titles}
        self._shown = LiveLines(self._running, self._console, self._below) if self._live else None

    def __enter__(self) -> "Board":
        if self._shown is not None:
            self._shown.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    @contextmanager
    def watch(self, title: str) -> Iterator[Progress]:
        """Return the callback of a training; the block ends with it."""
        row = self._rows[title]
        if self._everything is not None:
            self._everything.begin(row, self._places[title])
        yield row
        if self._everything is not None:
            self._everything.end(row)
        row.finished = True
        self._print_finished()

    def _running(self) -> list[Standing]:
        """Return the progress of the trainings that have begun and are not printed yet."""
        return [self._without_time(row.now) for row in list(self._rows.values()) if row.begun]

    def _without_time(self, now: Standing) -> Standing:
        """Leave out the time left of one of several trainings: the line below them has that of all."""
        return now if self._everything is None else replace(now, left=None, own=None)

    def _below(self) -> str | None:
        """Return the line below the running trainings, on all of them."""
        if self._everything is None or not any(row.begun for row in list(self._rows.values())):
            return None
        left = self._everything.left()
        shown = "" if left is None else f", {duration(left)} left"
        return f"{self._everything.finished} of {self._count} trainings finished{shown}"

    def look(self, row: "_Row") -> None:
        """Print a line of a training that takes long, where no live line shows it."""
        if not self._live and time.monotonic() - row.spoke > _SECONDS_BETWEEN_LINES:
            row.spoke = time.monotonic()
            self._console.print(line_of(plain_line(row.now)))

    def _print_finished(self) -> None:
        """Print the finished trainings up to the first that is not finished."""
        while self._rows:
            title, row = next(iter(self._rows.items()))
            if not row.finished:
                return
            del self._rows[title]
            if not row.begun:  # quiet, or finished by an earlier call
                continue
            if self._live:
                self._console.print(progress_text(self._without_time(row.now), self._console.options))
            else:
                self._console.print(line_of(plain_line(row.now)))


class _Row(Progress):
    """Follow one training of a board."""

    def __init__(self, board: Board, title: str, quiet: bool, everything: TrainingsLeft | None) -> None:
        super().__init__(title, quiet=quiet, everything=everything)
        self._board = board
        self._memory: int | None = None
        self.begun = self.finished = False
        self.spoke = 0.0

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        super().on_start(epochs, steps_per_epoch)
        self.begun, self.spoke = not self._quiet, time.monotonic()

    def on_epoch(self, row: EpochRow) -> None:
        self._memory = None if row.memory_mb is None else round(row.memory_mb * 1e6)
        super().on_epoch(row)
        if not self._quiet and row.epoch < self.now.epochs:
            self._board.look(self)

    def memory(self) -> tuple[int | None, str]:
        """Return the memory of the training's own process."""
        return self._memory, "RAM"
