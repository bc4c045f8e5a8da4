"""Log a training to trackers. One worker thread calls them all, so that none can delay or fail the training."""

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
from lgkd._internal.launch import STUCK
from lgkd.config.trackers import KNOWN, TRACKED, name_of
from lgkd.training.callbacks import Callback, EpochRow

PROJECT = "lgkd"
"""Project, or experiment, under which trackers store runs."""

PATIENCE = 60.0
"""Timeout of a tracker call in seconds; a tracker that exceeds it is dropped."""

PATIENCE_VARIABLE = "LGKD_TRACKER_SECONDS"
"""Name of the environment variable that sets the timeout."""

_CLOSED = "the end of the training"
_IDENTITY = re.compile(r"[\w.,:+ -]{1,200}")
_FORMAT = 1


class Tracking(Callback):
    """Log every epoch's row to trackers exactly once, across interruptions of the run.

    Use as a context manager around the training. The first failure of a tracker, or its silence, is reported in one
    sentence, and the tracker is then dropped; nothing is raised. A worker whose tracker does not respond is replaced by
    another thread, which serves the other trackers.

    Args:
        folder: folder of the run; `tracked.json` in it records the last epoch logged to each tracker.
        trackers: names of `lgkd.config.trackers.KNOWN`, or objects with a `name` and `log(values, step=...)`, and
            optionally `start()`, `store_init_configuration(values)` and `finish()`, as Accelerate's `GeneralTracker`.
        about: configuration of the run for trackers: plain values by name.
        values: converts an epoch's row to numbers by name.
        say: called with a sentence for the user.
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
        self._trackers = [_Tracker(tracker, folder, record, about) for tracker in trackers]
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: tuple[_Tracker, str, float] | None = None  # the current call, and its start time

    def __enter__(self) -> Self:
        self._put("its start", _Tracker.start)
        self._start_worker()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put(_CLOSED, _Tracker.finish)
        self._jobs.put(None)
        while self._worker.is_alive():
            self._worker.join(0.02)
            self._report_failures()
        self._report_failures()

    def on_epoch(self, row: EpochRow) -> None:
        """Queue the row, without waiting."""
        values = dict(self._values(row))
        values.pop("epoch", None)  # it is the step
        self._put(f"epoch {row.epoch}", lambda tracker: tracker.log(row.epoch, values))
        self._report_failures()

    def _put(self, doing: str, call: Callable[["_Tracker"], None]) -> None:
        for tracker in self._trackers:
            self._jobs.put((tracker, doing, call))

    def _start_worker(self) -> None:
        # A daemon, so that a tracker that never returns does not keep the process alive.
        self._worker = threading.Thread(target=self._work, name="trackers", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        """Call trackers until the queue ends, or until this thread has been replaced."""
        while (job := self._jobs.get()) is not None:
            tracker, doing, call = job
            if tracker.failure is not None:
                continue
            failure = None
            self._current = tracker, doing, time.monotonic()
            try:
                call(tracker)
            except BaseException as error:  # also SystemExit by a library, which would silently end this thread
                text = " ".join(str(error).split())[:200]
                failure = f"failed at {doing} ({type(error).__name__}{': ' if text else ''}{text})"
            with self._lock:
                if threading.current_thread() is not self._worker:
                    return
                tracker.failure, self._current = failure, None

    def _report_failures(self) -> None:
        """Report trackers that failed or do not respond, once, and drop them."""
        with self._lock:
            if self._current is not None and time.monotonic() - self._current[2] > self._patience:
                tracker, doing, _ = self._current
                tracker.failure, self._current = f"has not answered for {self._patience:g} s at {doing}", None
                STUCK.append(tracker.name)
                self._start_worker()
        for tracker in [one for one in self._trackers if one.failure is not None]:
            self._trackers.remove(tracker)
            known = KNOWN.get(tracker.name)
            advice = known.advice if known is not None else "see its own documentation"
            self._say(
                f"the tracker {tracker.name} {tracker.failure}; the training continues without it and metrics.csv is "
                f"whole; {advice}"
            )


class _Record:
    """Record the last epoch logged to each tracker: {name: {"epoch": N, "identity": "..."}}."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._file, self._lock = folder / TRACKED, threading.Lock()
        self.entries: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            try:
                self.entries = _read(json.loads(self._file.read_text(encoding="utf-8")))
            except (OSError, ValueError, RecursionError):
                say(f"{self._file} cannot be read; every epoch is logged to trackers again")

    def write(self, name: str, epoch: int, identity: str) -> None:
        """Record an epoch before it is logged, so that no tracker receives it twice."""
        with self._lock:
            self.entries[name] = {"epoch": epoch, "identity": identity}
            write_json(self._file, {"format": _FORMAT, "trackers": self.entries})


def _read(content: Any) -> dict[str, dict[str, Any]]:
    """Return the entries of a record; raises a ValueError if it is invalid."""
    of = content.get("trackers") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    if not isinstance(of, dict) or not all(_is_proper(entry) for entry in of.values()):
        raise ValueError
    return of


def _is_proper(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"epoch", "identity"}
        and type(entry["epoch"]) is int
        and isinstance(entry["identity"], str)
        and _IDENTITY.fullmatch(entry["identity"]) is not None
    )


class _Tracker:
    """Hold a tracker and its progress; the worker calls its methods.

    Attributes:
        name: of the tracker.
        failure: description of its failure, after which it is not called again.
    """

    def __init__(self, tracker: Any, folder: Path, record: _Record, about: Mapping[str, Any]) -> None:
        self.name = name_of(tracker)
        self.failure: str | None = None
        self._tracker, self._folder, self._record, self._about = tracker, folder, record, about
        before = record.entries.get(self.name)
        self._is_new = before is None
        self._done = before["epoch"] if before is not None else 0
        self._identity = before["identity"] if before is not None else secrets.token_hex(10)

    def start(self) -> None:
        """Create the tracker by Accelerate's class for it, and give a new one the run's configuration."""
        if isinstance(self._tracker, str):
            self._tracker = self._create()
        with _without_host(self.name):
            _call(self._tracker, "start")
        self._identity = _identity_of(self._tracker, self.name) or self._identity
        if self._is_new:
            self._record.write(self.name, 0, self._identity)
            self._configure()

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Log an epoch's values, unless an earlier part of the run logged them."""
        if epoch > self._done:
            self._record.write(self.name, epoch, self._identity)
            self._tracker.log(values, step=epoch)
            self._done = epoch

    def finish(self) -> None:
        """Close the tracker."""
        _call(self._tracker, "finish")

    def _create(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        known = KNOWN[self.name]
        options = known.begin(self._folder, self._identity) | ({} if self._is_new else known.again(self._identity))
        tracker = LOGGER_TYPE_TO_CLASS[self.name](options.pop("project", PROJECT), **options)
        # Only the first process has trackers, so Accelerate need not ask which this one is.
        tracker.main_process_only = False
        return tracker

    def _configure(self) -> None:
        if self.name == "tensorboard":
            # Accelerate would write another folder of events, and a file, for its table of hyperparameters.
            rows = "".join(f"| {name} | {value} |\n" for name, value in self._about.items())
            self._tracker.log({"run": f"| | |\n|---|---|\n{rows}"}, step=0)
        else:
            _call(self._tracker, "store_init_configuration", dict(self._about))


_Job = tuple[_Tracker, str, Callable[[_Tracker], None]]
"""A tracker, the description of a call, and the call."""


@contextmanager
def _without_host(name: str) -> Iterator[None]:
    """Keep the host's name out of the name of TensorBoard's file, since run folders are shared."""
    if name != "tensorboard":
        yield
        return
    event_file_writer: Any = import_module("tensorboard.summary.writer.event_file_writer")
    # It calls `socket.gethostname()` when created, and takes no name. Only this module's reference is replaced.
    real = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: PROJECT)
    try:
        yield
    finally:
        event_file_writer.socket = real


def _call(tracker: Any, method: str, *words: Any) -> None:
    """Call a method that a custom tracker may lack."""
    if (found := getattr(tracker, method, None)) is not None:
        found(*words)


def _identity_of(tracker: Any, name: str) -> str | None:
    """Return the identity of the run in the tracker's own store, if it is known."""
    path = KNOWN[name].identity if name in KNOWN else ""
    value = getattr(tracker, "tracker", None) if path else None
    for word in path.split(".") if path else ():
        value = getattr(value, word, None)
    with suppress(TypeError):
        return value if value is not None and _IDENTITY.fullmatch(value) else None
    return None
