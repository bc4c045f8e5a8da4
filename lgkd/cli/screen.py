"""What people see: tables, sentences, and the progress of a training. rich lives here."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lgkd.trainer.loop import EpochRow

_SECONDS_BETWEEN_LINES = 5.0


def console(*, errors: bool = False) -> Console:
    """A console as wide as the terminal, and 80 columns where there is none."""
    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 80, soft_wrap=not stream.isatty())


def say(sentence: str) -> None:
    """A remark on standard error, where it does not mix with results."""
    console(errors=True).print(Text(sentence, style="dim"))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """A table that fits 80 columns; the numbers in `right` are columns set flush right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    stream = sys.stdout
    Console(file=stream, highlight=False, width=None if stream.isatty() else 80).print(table)


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values under each other."""
    width = max(map(len, pairs), default=0)
    out = console()
    for name, value in pairs.items():
        out.print(Text(f"{name:<{width}}  ", style="dim") + Text(str(value)))


class Display:
    """Shows a training: one live line on a terminal, a plain line now and then elsewhere.

    Use as a context manager; it is a watcher of the loop.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._quiet = quiet
        self._console = console(errors=True)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._live,
            transient=False,
        )
        self._task = None
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
            self._console.print(Text(sentence, style="dim"))

    def decoded(self, done: int, total: int) -> None:
        """Progress of reading images."""
        if self._quiet or not (done == total or time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES):
            return
        self._spoke = time.monotonic()
        self._console.print(Text(f"reading images: {done:,} of {total:,}", style="dim"))

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs, self._steps = epochs, steps_per_epoch
        self._began, self._spoke = time.monotonic(), float("-inf")
        if self._live:
            self._task = self._progress.add_task(self._title, total=epochs, news="")

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        if self._task is not None:
            done = epoch + (step + 1) / self._steps
            self._progress.update(self._task, completed=done, news=_news(parts, images_per_second) + self._test)

    def on_epoch(self, row: "EpochRow") -> None:
        top1 = row.scores.get("top1")
        if top1 is not None:
            self._test = f" test {top1:.1%}"
        news = _news(row.train, row.images_per_second) + self._test
        if self._task is not None:
            self._progress.update(self._task, completed=row.epoch, news=news)
            return
        last = row.epoch == self._epochs
        if self._quiet or (time.monotonic() - self._spoke < _SECONDS_BETWEEN_LINES and not last):
            return
        self._spoke = time.monotonic()
        left = (self._epochs - row.epoch) * (time.monotonic() - self._began) / row.epoch
        self._console.print(f"{self._title} epoch {row.epoch}/{self._epochs} {news} left {duration(left)}")


def _news(parts: Mapping[str, float], images_per_second: float) -> str:
    named = [(name, value) for name, value in parts.items() if name not in ("loss", "accuracy")]
    words = [f"{name.replace('classification', 'class')} {value:.3g}" for name, value in named]
    return f"{' '.join(words)} train {parts.get('accuracy', 0.0):.1%} {images_per_second:,.0f} img/s"


def duration(seconds: float) -> str:
    """Seconds in words: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


Say = Callable[[str], None]
