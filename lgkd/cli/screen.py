"""What people see: tables, sentences, and the progress of a training. rich lives here."""

import io
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from lgkd.cli.literal import json_visible, one_line, visible

if TYPE_CHECKING:
    from lgkd.trainer.loop import EpochRow

_SECONDS_BETWEEN_LINES = 5.0
_NEVER_FULL = 10_000
_UNITS = ((10**6, "MB"), (10**3, "kB"), (1, "bytes"))


class Console(RichConsole):
    """Prints strings as they stand: no markup, no emoji codes, and nothing that acts on a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "markup": False, "emoji": False, "highlight": False})

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of every string that it is given."""
        return super().render_str(visible(text), **options)


def console(*, errors: bool = False) -> Console:
    """A console as wide as the terminal; without one, lines are never broken, for grep and for files."""
    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, soft_wrap=not stream.isatty())


def line_of(sentence: object, style: str = "") -> Text:
    """One line in a style. Texts, which rich prints as they are, are made here only."""
    return Text(one_line(str(sentence)), style=style)


def say(sentence: str) -> None:
    """A remark on standard error, where it does not mix with results."""
    console(errors=True).print(line_of(sentence, "dim"))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """A table with its title above; the numbers in `right` are columns set flush right.

    On a terminal long cells go on in the next line of their column. Elsewhere a row is one line.
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
    # The last column is filled up with spaces, which a file has no use for.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in wide.file.getvalue().splitlines()))


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json_visible(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values under each other."""
    width = max(map(len, pairs), default=0)
    out = console()
    for name, value in pairs.items():
        out.print(line_of(f"{name:<{width}}  ", "dim") + line_of(value))


class Display:
    """Shows a training: one live line on a terminal, a plain line now and then elsewhere.

    Use as a context manager; it is a watcher of the loop.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = one_line(title)
        self._quiet = quiet
        self._console = console(errors=True)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[epoch]}/{task.total}", markup=False),
            TimeRemainingColumn(compact=True),
            # What is left of the line goes to the news, whose end matters least.
            TextColumn(
                "{task.fields[news]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            disable=not self._live,
            expand=True,
        )
        self._task: TaskID | None = None
        self._steps = 1
        self._epochs = 0
        self._began = time.monotonic()
        self._spoke = float("-inf")
        self._test = ""

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def say(self, sentence: str) -> None:
        """A remark above the live line."""
        if not self._quiet:
            self._console.print(line_of(sentence, "dim"))

    def decoded(self, done: int, total: int) -> None:
        """Progress of reading images."""
        self._now_and_then(f"reading images: {done:,} of {total:,}", last=done == total)

    def arranged(self, done: int, total: int) -> None:
        """Progress of laying out images."""
        self._now_and_then(f"laying out images: {done:,} of {total:,}", last=done == total)

    def cached(self, done: int, total: int) -> None:
        """Progress of caching what a teacher says."""
        self._now_and_then(f"caching: {done:,} of {total:,} views", last=done == total)

    def downloading(self, name: str, done: int, total: int) -> None:
        """Progress of a download, in bytes."""
        unit, word = next(((size, word) for size, word in _UNITS if total >= 10 * size), _UNITS[-1])
        self._now_and_then(f"downloading {name}: {done / unit:,.0f} of {total / unit:,.0f} {word}", last=done == total)

    def _now_and_then(self, line: str, *, last: bool) -> None:
        """A plain line every few seconds, and the last one."""
        if self._quiet or not (last or time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES):
            return
        self._spoke = time.monotonic()
        self._console.print(line_of(line, "dim"))

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs, self._steps = epochs, steps_per_epoch
        self._began, self._spoke = time.monotonic(), float("-inf")
        if self._live:
            self._task = self._progress.add_task(self._title, total=epochs, epoch=1, news="")

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        if self._task is not None:
            done = epoch + (step + 1) / self._steps
            news = self._test + _news(parts, images_per_second)
            self._progress.update(self._task, completed=done, epoch=epoch + 1, news=one_line(news))

    def on_epoch(self, row: "EpochRow") -> None:
        top1 = row.scores.get("test_top1")
        if top1 is not None:
            self._test = f"test {top1:.1%} "
        news = self._test + _news(row.train, row.images_per_second)
        if self._task is not None:
            self._progress.update(self._task, completed=row.epoch, epoch=row.epoch, news=one_line(news))
            return
        last = row.epoch == self._epochs
        if self._quiet or (time.monotonic() - self._spoke < _SECONDS_BETWEEN_LINES and not last):
            return
        self._spoke = time.monotonic()
        left = (self._epochs - row.epoch) * (time.monotonic() - self._began) / row.epoch
        self._console.print(f"{self._title} epoch {row.epoch}/{self._epochs} {news}, {duration(left)} left")


def _news(parts: Mapping[str, float], images_per_second: float) -> str:
    named = [(name, value) for name, value in parts.items() if name not in ("loss", "accuracy")]
    losses = " ".join(f"{name.replace('classification', 'class')} {value:.3g}" for name, value in named)
    return f"train {parts.get('accuracy', 0.0):.1%} {losses} {images_per_second:,.0f} img/s"


def duration(seconds: float) -> str:
    """Seconds in words: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
