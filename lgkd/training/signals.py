"""Stop a training before its end on signals or at a time limit."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Self

from lgkd._internal.distributed import place
from lgkd.errors import Interrupted, LgkdError, Paused

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopCondition:
    """Check after every step, or among several processes after some, whether to save and exit.

    As a context manager it handles SIGINT, SIGTERM and SIGUSR1: the first lets the step finish, a second
    ends the process at once. Batch systems send SIGUSR1 before their limit, so it counts as a pause.
    Outside the main thread Python allows no handlers; there only the time limit applies.

    Args:
        max_seconds: pause when the process has run this long; None: never.
        began: `time.monotonic()` of the start.
    """

    def __init__(self, max_seconds: float | None = None, began: float | None = None) -> None:
        self._limit = None if max_seconds is None else (began or time.monotonic()) + max_seconds
        self._max_seconds = max_seconds
        self._seen: int | None = None
        self._former: dict[int, object] = {}
        self._speaks = True

    def __enter__(self) -> Self:
        self._speaks = place().rank == 0
        for number in _SIGNALS:
            try:
                self._former[number] = signal.signal(number, self._take)
            except ValueError:
                break
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._former.clear()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._seen is not None:
            os._exit(128 + number)
        self._seen = number
        if not self._speaks:
            return
        # print() is not safe inside a handler; a plain write is.
        with suppress(OSError):  # nobody reads the message any more, which is not an error
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nlgkd: finishing the step and saving ...\n")

    def reason(self) -> LgkdError | None:
        """Return the error to stop with, or None to continue."""
        if self._seen is not None:
            name = signal.Signals(self._seen).name
            message = f"stopped by {name} and saved; run the same command again to resume"
            if name == "SIGUSR1":
                return Paused(message)
            return Interrupted(message, self._seen)
        if self._limit is not None and time.monotonic() >= self._limit:
            return Paused(f"paused after {self._max_seconds:g} seconds and saved; run the same command again to resume")
        return None
