"""Print tables, messages, and the progress of a training. Only this module and `board` import rich."""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lgkd._internal.metric_rules import headline
from lgkd._internal.text import one_line
from lgkd.cli.escape import json_visible
from lgkd.cli.progress_line import Standing, live_line, plain_line
from lgkd.cli.progress_line import duration as duration
from lgkd.cli.time_left import TimeLeft
from lgkd.training.callbacks import Callback, EpochRow

_SECONDS_BETWEEN_LINES = 5.0
_EPOCHS_TO_GO_BY = 10
_NEVER_FULL = 10_000
_UNITS = ((10**6, "MB"), (10**3, "kB"), (1, "bytes"))


class Console(RichConsole):
    """Print a string as one literal line: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "markup": False, "emoji": False, "highlight": False})

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich's text, without markup."""
        return super().render_str(one_line(text), **options)


def console(*, errors: bool = False) -> Console:
    """Create a console as wide as the terminal; without one, lines are never broken, for grep and for files."""
    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, soft_wrap=not stream.isatty())


def line_of(sentence: object, style: str = "") -> Text:
    """Make one styled line. Texts, which rich prints as they are, are made here only."""
    return Text(one_line(str(sentence)), style=style)


def show_lines(text: str) -> None:
    """Print a text with line breaks, such as a recipe."""
    for line in text.splitlines():
        console().print(line_of(line), soft_wrap=True)


def say(sentence: str) -> None:
    """Print a remark on standard error, separate from results."""
    console(errors=True).print(line_of(sentence, "dim"))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """Print a table with its title above; `right` holds the indices of right-aligned columns.

    On a terminal long cells wrap within their column. Elsewhere a row is one line.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(line_of, row))
    out = console()
    if title:
        out.print(line_of(title, "bold"))
    if out.is_terminal:
        out.print(table)
        return
    wide = Console(file=io.StringIO(), width=_NEVER_FULL)
    wide.print(table)
    assert isinstance(wide.file, io.StringIO)
    # The last column is padded with spaces, which a file has no use for.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in wide.file.getvalue().splitlines()))


def show_json(value: Any) -> None:
    """Print one JSON document on standard output; non-finite numbers become null, as JSON has none."""
    plain = json.dumps(_without_wild(value), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(json_visible(plain) + "\n")


def _without_wild(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_wild(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_wild(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values below each other."""
    width = max(map(len, pairs), default=0)
    out = console()
    for name, value in pairs.items():
        # Not added: the whole would take the style of the first.
        out.print(line_of(f"{name:<{width}}  ", "dim"), line_of(value), sep="")


def moves_cursor(out: Console) -> bool:
    """Return whether lines can be redrawn."""
    return out.is_terminal and not out.is_dumb_terminal


def progress_text(now: Standing, options: ConsoleOptions) -> Text:
    """Make the line of a training, as wide as the terminal is at this moment."""
    line = line_of(live_line(now, options.max_width, ascii_only=options.ascii_only))
    line.no_wrap = True
    return line


class LiveLines:
    """Keep a line for each running training at the bottom of a terminal.

    Args:
        running: returns the progress of those to show, each time they are shown.
        out: the terminal.
        below: returns a line below them; None for none.
    """

    def __init__(
        self, running: Callable[[], Iterable[Standing]], out: Console, below: Callable[[], str | None] = lambda: None
    ) -> None:
        self._running, self._below = running, below
        self._live = Live(self, console=out, refresh_per_second=4)

    def start(self) -> None:
        """Show the lines, four times a second."""
        self._live.start()

    def stop(self) -> None:
        """Show them a last time."""
        self._live.stop()

    def __rich_console__(self, _console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Render the lines at the terminal's present width."""
        for now in self._running():
            yield progress_text(now, options)
        if (below := self._below()) is not None:
            line = line_of(below[: options.max_width], "dim")
            line.no_wrap = True
            yield line


class Progress(Callback):
    """Follow a training; subclasses show its progress.

    Args:
        title: of the training.
        quiet: show nothing.
        everything: estimates the time to the end of several trainings, of which this is one.

    Attributes:
        now: the progress.
    """

    def __init__(self, title: str, *, quiet: bool = False, everything: TimeLeft | None = None) -> None:
        self.now = Standing(one_line(title), 1, 1)
        self._quiet, self._everything = quiet, everything
        self._done, self._started = 0.0, False
        self._steps = 1
        self._first: tuple[float, float] | None = None  # start time and epoch of this part of the training
        self._seconds: list[float] = []

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        self.now, self._steps = Standing(self.now.title, 1, epochs), steps_per_epoch
        self._seconds, self._first = [], None
        self._done, self._started = 0.0, True

    @property
    def total(self) -> float | None:
        """Return the estimated seconds of the whole training, earlier parts of it included; None where unknown."""
        pace = self._pace()
        return None if pace is None else self.now.epochs * pace

    @property
    def remaining(self) -> float | None:
        """Return the estimated seconds to its end; None where unknown."""
        pace = self._pace()
        return None if pace is None else (self.now.epochs - self._done) * pace

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        done = epoch + (step + 1) / self._steps
        self._first = self._first or (time.monotonic(), done)
        self._look(epoch + 1, done, parts, images_per_second)

    def on_resume(self, rows: Sequence[EpochRow]) -> None:
        """Take the time of an epoch from earlier epochs."""
        for row in rows:
            self._count(row)

    def on_epoch(self, row: EpochRow) -> None:
        self._count(row)

    def memory(self) -> tuple[int | None, str]:
        """Return bytes in use and their kind."""
        return memory_in_use()

    def _count(self, row: EpochRow) -> None:
        self._seconds.append(row.seconds + row.evaluation_seconds)
        scores = row.scores
        key = f"test_{headline(scores).key}"
        if key in scores and not self._quiet:
            self.now = replace(self.now, top1=scores[key], balanced=scores.get("test_balanced_accuracy"))
        self._look(row.epoch, row.epoch, row.train, row.images_per_second)

    def _look(self, epoch: int, done: float, train: Mapping[str, float], rate: float) -> None:
        if self._quiet:
            return
        memory, where = self.memory()
        self._done = done
        own = self.remaining
        self.now = replace(
            self.now,
            epoch=epoch,
            done=done,
            left=own if self._everything is None else self._everything.left(),
            own=None if self._everything is None else own,
            train=train,
            images_per_second=rate,
            memory=memory,
            where=where,
        )

    def _pace(self) -> float | None:
        """Estimate the seconds of an epoch from the last ones, earlier parts of the training included."""
        if not self._started:
            return None
        if self._seconds:
            recent = self._seconds[-_EPOCHS_TO_GO_BY:]
            return sum(recent) / len(recent)
        if self._first is None or self._done <= self._first[1]:
            return None
        return (time.monotonic() - self._first[0]) / (self._done - self._first[1])


class Display(Progress):
    """Show a training: one live line on a terminal, a plain line every few seconds elsewhere.

    Use as a context manager; it is a callback of the loop.
    """

    def __init__(self, title: str, *, quiet: bool = False, everything: TimeLeft | None = None) -> None:
        super().__init__(title, quiet=quiet, everything=everything)
        self._console = console(errors=True)
        self._live = moves_cursor(self._console) and not quiet
        self._shown = Live(self, console=self._console, refresh_per_second=4) if self._live else None
        self._spoke = float("-inf")

    def __enter__(self) -> "Display":
        if self._everything is not None:
            self._everything.begin(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown is not None:
            self._shown.stop()
        if self._everything is not None:
            self._everything.end(self)

    def __rich_console__(self, _console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Render the live line, as wide as the terminal is at this moment."""
        yield progress_text(self.now, options)

    def say(self, sentence: str) -> None:
        """Print a remark above the live line."""
        if not self._quiet:
            self._console.print(line_of(sentence, "dim"))

    def decoded(self, done: int, total: int) -> None:
        """Show the progress of reading images."""
        self._now_and_then(f"reading images: {done:,} of {total:,}", last=done == total)

    def arranged(self, done: int, total: int) -> None:
        """Show the progress of laying out images."""
        self._now_and_then(f"laying out images: {done:,} of {total:,}", last=done == total)

    def predicted(self, done: int, total: int) -> None:
        """Show the progress of classifying images."""
        self._now_and_then(f"classifying images: {done:,} of {total:,}", last=False)

    def explained(self, done: int, total: int) -> None:
        """Show the progress of drawing overlays."""
        self._now_and_then(f"drawing overlays: {done:,} of {total:,}", last=False)

    def cached(self, done: int, total: int) -> None:
        """Show the progress of caching a teacher."""
        self._now_and_then(f"caching: {done:,} of {total:,} views", last=done == total)

    def downloading(self, name: str, done: int, total: int) -> None:
        """Show the progress of a download, in bytes."""
        unit, word = next(((size, word) for size, word in _UNITS if total >= 10 * size), _UNITS[-1])
        self._now_and_then(f"downloading {name}: {done / unit:,.0f} of {total / unit:,.0f} {word}", last=done == total)

    def _now_and_then(self, line: str, *, last: bool) -> None:
        """Print a plain line every few seconds, and the last one."""
        if self._quiet or not (last or time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES):
            return
        self._spoke = time.monotonic()
        self._console.print(line_of(line, "dim"))

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        super().on_start(epochs, steps_per_epoch)
        self._spoke = float("-inf")
        if self._shown is not None:
            self._shown.start()

    def on_resume(self, rows: Sequence[EpochRow]) -> None:
        """Print the state after earlier epochs in one line, and take the time of an epoch from them."""
        super().on_resume(rows)
        if not (self._live or self._quiet):
            self._console.print(line_of(f"so far: {plain_line(self.now)}", "dim"))

    def on_epoch(self, row: EpochRow) -> None:
        super().on_epoch(row)
        last = row.epoch == self.now.epochs
        if self._live or self._quiet or (time.monotonic() - self._spoke < _SECONDS_BETWEEN_LINES and not last):
            return
        self._spoke = time.monotonic()
        self._console.print(line_of(plain_line(self.now)))


def memory_in_use() -> tuple[int, str]:
    """Return bytes and their kind: the peak that torch allocated on the GPU, or the memory of the process."""
    import torch

    from lgkd._internal.hardware import resident

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call, unused-ignore]
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))), "GPU"
    return resident()[0], "RAM"


def after_compiled(what: object) -> str:
    """Return the end of a line on a training, by what is compiled of it."""
    return {False: "", True: ", compiled", "blocks": ", blocks compiled"}.get(what, "")
