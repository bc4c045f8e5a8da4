"""Connect the displays of the command line to trainings."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from lgkd._internal.launch import is_first
from lgkd.cli.display import Display
from lgkd.cli.time_left import TimeLeft
from lgkd.runner.options import Options
from lgkd.training.callbacks import Callback

if TYPE_CHECKING:
    from lgkd.runner.sweep import Watch


def aside(track: Sequence[str] | None) -> AbstractContextManager[Any]:
    """Redirect output of trackers to standard error; standard output is for results."""
    return redirect_stdout(sys.stderr) if track else nullcontext()


def callbacks_of(display: Display, *more: Callback) -> Options:
    """Make the options that connect a display, and perhaps more callbacks, to a training."""
    return {
        "watchers": (display, *more),
        "progress": display.decoded,
        "downloading": display.downloading,
        "say": display.say,
    }


def watch_each(
    *more: Callback, quiet: bool, track: Sequence[str] | None = None, everything: TimeLeft | None = None
) -> "Watch":
    """Make a display for each of several runs.

    Args:
        more: callbacks of all runs.
        quiet: show nothing.
        track: names of trackers, whose output is put aside.
        everything: estimates the time to the end of all runs.
    """

    @contextmanager
    def look(title: str) -> Iterator[Any]:
        with aside(track), Display(title, quiet=quiet or not is_first(), everything=everything) as display:
            yield callbacks_of(display, *more)

    return look
