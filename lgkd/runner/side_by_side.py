"""Train several runs side by side, each on one thread of a process of its own, or in turn in this process.

One thread each, so that results are the same bits for any number of processes.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import torch

from lgkd._internal.hardware import memory
from lgkd.errors import Interrupted, LgkdError, Paused
from lgkd.runner.jobs import Job, answer, pass_on
from lgkd.runner.options import Options
from lgkd.runner.sweep import QueuedRun, Watch, no_callbacks, said_once, train_in_turn
from lgkd.runner.workers import Message, Worker, as_error, function_of

_TURN = 0.2
_MEMORY_OF_A_WORKER = 1 << 30
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


def train_jobs(jobs: Sequence[Job], *, workers: int, watch: Watch | None = None) -> dict[str, Any]:
    """Train runs on one thread each; wherever it is stopped, the same call resumes.

    Args:
        jobs: in an order in which each comes after those that it needs.
        workers: number of processes, of which no more are started than there are memory and trainings for; 1: this one.
        watch: makes the callbacks of a run; see `Watch`.

    Returns:
        The result of every job by its name, in the order of `jobs`.

    Raises:
        Paused, Interrupted: a signal; the runs are saved, and the same call resumes.
        LgkdError: of a run; the others are saved.
    """
    workers = min(workers, len(jobs), max(1, memory().free // _MEMORY_OF_A_WORKER))
    found = _in_turn(jobs, watch) if workers <= 1 else _SideBySide(jobs, workers, watch or no_callbacks).run()
    return {job.name: found[job.name] for job in jobs}


def _in_turn(jobs: Sequence[Job], watch: Watch | None) -> dict[str, Any]:
    results: dict[str, Any] = {}

    def queued(job: Job) -> QueuedRun:
        def train(callbacks: Options, _began: float) -> float:
            results[job.name] = function_of(job.function)(dict(job.arguments), callbacks)
            return float(results[job.name]["top1"])

        return QueuedRun(job.name, job.title, lambda: False, train)

    with _one_thread():
        train_in_turn([queued(job) for job in jobs], watch=watch, counted=False)
    return results


class _SideBySide:
    """Hand jobs to workers as they become free, and pass what these report to the callbacks."""

    def __init__(self, jobs: Sequence[Job], workers: int, watch: Watch) -> None:
        self._waiting, self._count, self._watch = list(jobs), workers, watch
        self._inbox: SimpleQueue[tuple[Worker, Message | None]] = SimpleQueue()
        self._idle: list[Worker] = []
        self._running: dict[Worker, tuple[Job, Options, ExitStack]] = {}
        self._results: dict[str, Any] = {}
        self._said: set[str] = set()
        self._error: Exception | None = None
        self._signal: int | None = None
        self._stopping = False

    def run(self) -> dict[str, Any]:
        try:
            with self._signals_handled():
                while self._running or (self._waiting and not self._stopping):
                    if not self._stopping:
                        self._start_ready()
                    with suppress(Empty):
                        self._take(*self._inbox.get(timeout=_TURN))
                    if not self._stopping and (self._signal is not None or self._error is not None):
                        self._stop()
        finally:
            # Where all went well none is running.
            for worker, (_, _, stack) in self._running.items():
                worker.end(at_once=True)
                stack.__exit__(*sys.exc_info())
            for worker in self._idle:
                worker.end()
        if self._error is not None:
            raise self._error
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            message = f"stopped by {name} and saved; run the same command again to resume"
            raise Paused(message) if name == "SIGUSR1" else Interrupted(message, self._signal)
        return self._results

    def _start_ready(self) -> None:
        """Start the first jobs of the list that can be, one for each free worker."""
        while len(self._running) < self._count:
            job = next((job for job in self._waiting if self._results.keys() >= {*job.after}), None)
            if job is None:
                if not self._running and self._waiting:
                    raise ValueError(f"{self._waiting[0].name} is after {self._waiting[0].after}, which never end")
                return
            self._waiting.remove(job)
            stack = ExitStack()
            callbacks = said_once(stack.enter_context(self._watch(job.title)), self._said)
            worker = self._idle.pop() if self._idle else Worker(self._inbox)
            self._running[worker] = (job, callbacks, stack)
            worker.call(f"{answer.__module__}:answer", {"function": job.function, "arguments": dict(job.arguments)})

    def _take(self, worker: Worker, message: Message | None) -> None:
        """Handle one message of a worker."""
        if worker not in self._running:
            if worker in self._idle:  # it ended while it waited for a job
                self._idle.remove(worker)
                worker.end()
            return
        job, callbacks, stack = self._running[worker]
        if message is not None and "event" in message:
            pass_on(callbacks, message["event"], message["arguments"])
            return
        error: Exception | None = None
        if message is None:
            error = LgkdError(
                f"{worker.describe_end(f'the process of {job.title}')}; run the same command again to resume, with "
                "OMP_NUM_THREADS=1 to train one after the other"
            )
        elif "error" in message:
            error = as_error(message["error"], job.title)
        else:
            self._results[job.name] = message["result"]
        del self._running[worker]
        if message is None:
            worker.end()
        else:
            self._idle.append(worker)
        # The display of a run that did not finish stays as it was.
        stack.__exit__(*((None, None, None) if error is None else (type(error), error, error.__traceback__)))
        if error is not None and not self._stopping:
            self._error = error

    def _stop(self) -> None:
        """Let the running trainings save and end."""
        self._stopping = True
        for worker in self._running:
            worker.stop()

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        """Handle signals as a training does: the first lets all save, a second ends all at once."""

        def take(number: int, _frame: FrameType | None) -> None:
            if self._signal is not None:
                for worker in (*self._running, *self._idle):
                    worker.end(at_once=True)
                os._exit(128 + number)
            self._signal = number
            with suppress(OSError):  # nobody reads the message any more, which is not an error
                os.write(2, b"\nlgkd: finishing the steps and saving ...\n")

        former = {}
        for number in _SIGNALS:
            try:
                former[number] = signal.signal(number, take)
            except ValueError:  # not in the main thread
                break
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: the number of threads changes the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
