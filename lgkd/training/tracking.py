"""Telling trackers of a training. What they do, or fail to do, cannot reach it: each is spoken to by a thread."""

import json
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from lgkd._internal.atomic_io import write_json
from lgkd.config.trackers import KNOWN, STUCK, TRACKED, name_of
from lgkd.training.callbacks import Callback, EpochRow

PROJECT = "lgkd"
"""The project, or experiment, under which trackers keep runs."""

PATIENCE = 60.0
"""Seconds within which a tracker has to do one thing; one that has not is left out."""

PATIENCE_VARIABLE = "LGKD_TRACKER_SECONDS"
"""Name of an environment variable that sets them."""

_CLOSED = "the end of the training"
_IDENTITY = re.compile(r"[\w.,:+ -]{1,200}")
_FORMAT = 1


class Tracking(Callback):
    """A watcher that hands every epoch's row to trackers, once, whatever becomes of the run in between.

    Use as a context manager around the training. The first failure of a tracker, or its silence, is said in one
    sentence, and it is then left out; nothing is raised.

    Args:
        folder: the run's; `tracked.json` in it says how far each tracker has been told.
        trackers: names out of `lgkd.config.trackers.KNOWN`, or objects with a `name` and `log(values, step=...)`, and
            perhaps `start()`, `store_init_configuration(values)` and `finish()`, as Accelerate's `GeneralTracker` has.
        about: what trackers keep of the run: plain values by name.
        values: turns an epoch's row into numbers by name.
        say: called with a sentence that the user should hear.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Sequence[Any],
        *,
        about: Mapping[str, Any],
        values: Callable[[EpochRow], Mapping[str, float]],
        say: Callable[[str], None],
    ) -> None:
        self._values, self._say = values, say
        self._patience = float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
        record = _Record(folder, say)
        self._threads = [_Told(tracker, folder, record, about) for tracker in trackers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.jobs.put(None)
        for thread in self._threads:
            while thread.is_alive() and not self._is_stuck(thread):
                thread.join(0.02)
        self._look()

    def on_epoch(self, row: EpochRow) -> None:
        """Hand the row on, without waiting."""
        values = dict(self._values(row))
        values.pop("epoch", None)  # it is the step
        for thread in self._threads:
            thread.jobs.put((row.epoch, values))
        self._look()

    def _look(self) -> None:
        """Say what has failed, and leave it out."""
        for thread in list(self._threads):
            if thread.failure is None and self._is_stuck(thread):
                thread.failure = f"has not answered for {self._patience:g} s at {thread.doing}"
                thread.given_up = True
                STUCK.append(thread.called)
            if thread.failure is not None:
                self._threads.remove(thread)
                self._say(
                    f"the tracker {thread.called} {thread.failure}; the training goes on without it and metrics.csv is "
                    f"whole; {thread.advice}"
                )

    def _is_stuck(self, thread: "_Told") -> bool:
        return thread.since is not None and time.monotonic() - thread.since > self._patience


class _Record:
    """How far each tracker has been told: {name: {"epoch": N, "identity": "..."}}."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._file, self._lock = folder / TRACKED, threading.Lock()
        self._of: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            try:
                found = _read(json.loads(self._file.read_text(encoding="utf-8")))
            except (OSError, ValueError, RecursionError):
                found = None
            if found is None:
                say(f"{self._file} cannot be read; trackers are told of every epoch again")
            self._of = found or {}

    def of(self, name: str) -> dict[str, Any] | None:
        """What is known of a tracker from earlier."""
        return self._of.get(name)

    def write(self, name: str, epoch: int, identity: str) -> None:
        """Before an epoch is told, so that no tracker hears of it twice."""
        with self._lock:
            self._of[name] = {"epoch": epoch, "identity": identity}
            write_json(self._file, {"format": _FORMAT, "trackers": self._of})


def _read(content: Any) -> dict[str, dict[str, Any]] | None:
    """The entries of a record, None where it is none."""
    of = content.get("trackers") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    return of if isinstance(of, dict) and all(_is_proper(entry) for entry in of.values()) else None


def _is_proper(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"epoch", "identity"}
        and type(entry["epoch"]) is int
        and isinstance(entry["identity"], str)
        and _IDENTITY.fullmatch(entry["identity"]) is not None
    )


class _Told(threading.Thread):
    """One tracker. All that it does, it does in this thread; a daemon, so that it keeps no process from ending.

    Attributes:
        jobs: (epoch, values), or None at the end.
        since: when what it is doing was begun, in seconds of the monotonic clock; None: it is waiting for work.
        doing: what that is, in words.
        failure: what went wrong, in words.
        given_up: nobody waits for it any more.
    """

    def __init__(self, tracker: Any, folder: Path, record: _Record, about: Mapping[str, Any]) -> None:
        self.called = name_of(tracker)
        super().__init__(name=f"tracker {self.called}", daemon=True)
        self._tracker, self._folder, self._record, self._about = tracker, folder, record, about
        self.jobs: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self.since: float | None = None
        self.doing = "its start"
        self.failure: str | None = None
        self.given_up = False
        known = KNOWN.get(self.called)
        self.advice = known.advice if known is not None else "see what it says of itself"

    def run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # also an exit that a library asks for; it would end this thread only, unheard
            if not self.given_up:
                text = " ".join(str(error).split())[:200]
                self.failure = f"failed at {self.doing} ({type(error).__name__}{': ' if text else ''}{text})"
        finally:
            self.since = None

    def _follow(self) -> None:
        self.since = time.monotonic()
        before = self._record.of(self.called)
        done = before["epoch"] if before is not None else 0
        identity = before["identity"] if before is not None else secrets.token_hex(10)
        tracker = self._make(identity, again=before is not None)
        with _without_host(self.called):
            _call(tracker, "start")
        found = _identity_of(tracker, self.called) or identity
        if before is None:
            self._record.write(self.called, 0, found)
            self._tell_about(tracker)
        self.since = None
        while (job := self.jobs.get()) is not None and not self.given_up:
            epoch, values = job
            if epoch <= done:
                continue  # told in an earlier part of the run
            self.doing, self.since = f"epoch {epoch}", time.monotonic()
            self._record.write(self.called, epoch, found)
            tracker.log(values, step=epoch)
            self.since, done = None, epoch
        if not self.given_up:
            self.doing, self.since = _CLOSED, time.monotonic()
            _call(tracker, "finish")

    def _make(self, identity: str, *, again: bool) -> Any:
        """The tracker itself, of Accelerate's class for it."""
        if not isinstance(self._tracker, str):
            return self._tracker
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        known = KNOWN[self.called]
        options = known.begin(self._folder, identity) | (known.again(identity) if again else {})
        tracker = LOGGER_TYPE_TO_CLASS[self.called](options.pop("project", PROJECT), **options)
        # Only the first process has trackers, so Accelerate need not ask which this one is.
        tracker.main_process_only = False
        return tracker

    def _tell_about(self, tracker: Any) -> None:
        if self.called == "tensorboard":
            # Accelerate would write another folder of events, and a file, for its table of hyperparameters.
            rows = "".join(f"| {name} | {value} |\n" for name, value in self._about.items())
            tracker.log({"run": f"| | |\n|---|---|\n{rows}"}, step=0)
        else:
            _call(tracker, "store_init_configuration", dict(self._about))


@contextmanager
def _without_host(name: str) -> Iterator[None]:
    """Keep the host's name out of that of TensorBoard's file: it lies in the run's folder, which people pass on."""
    if name != "tensorboard":
        yield
        return
    event_file_writer: Any = import_module("tensorboard.summary.writer.event_file_writer")
    # It asks `socket.gethostname()` as it is made, and takes no name. Only this module's word is exchanged.
    real = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: PROJECT)
    try:
        yield
    finally:
        event_file_writer.socket = real


def _call(tracker: Any, method: str, *words: Any) -> None:
    """Call what an object of the user's own may lack."""
    if (found := getattr(tracker, method, None)) is not None:
        found(*words)


def _identity_of(tracker: Any, name: str) -> str | None:
    """By what the tracker's own store knows the run, where that can be told."""
    path = KNOWN[name].identity if name in KNOWN else ""
    value = getattr(tracker, "tracker", None) if path else None
    for word in path.split(".") if path else ():
        value = getattr(value, word, None)
    with suppress(TypeError):
        return value if value is not None and _IDENTITY.fullmatch(value) else None
    return None
