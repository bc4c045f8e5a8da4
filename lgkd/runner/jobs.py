"""Describe a training as a function to call in any process, and carry its callbacks between processes. No torch."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lgkd.errors import Remark
from lgkd.runner.options import Options
from lgkd.runner.workers import Send, function_of
from lgkd.training.callbacks import Callback, EpochRow, resume_callback


@dataclass(frozen=True)
class Job:
    """Represent one training of several, as a function to call in any process.

    Attributes:
        name: unique among them.
        title: of its display.
        function: "module:name", called with `arguments` and the callbacks as `Options`; it trains the run, or checks a
            finished one, and returns JSON values, with the accuracy as "top1".
        arguments: JSON values.
        after: names of earlier jobs that have to be finished first.
    """

    name: str
    title: str
    function: str
    arguments: Mapping[str, Any]
    after: tuple[str, ...] = ()


def answer(call: Mapping[str, Any], send: Send) -> Any:
    """Train a job: the worker's side. Callbacks are called in the starting process."""

    def sending(name: str) -> Callable[..., None]:
        return lambda *arguments: send(name, *arguments)

    callbacks: Options = {
        "watchers": (_Reporter(send),),
        "progress": sending("progress"),
        "downloading": sending("downloading"),
        "say": sending("say"),
    }
    return function_of(call["function"])(call["arguments"], callbacks)


class _Reporter(Callback):
    """Send every call to the starting process."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        self._send("on_start", epochs, steps_per_epoch)

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        self._send("on_step", epoch, step, dict(parts), images_per_second)

    def on_epoch(self, row: EpochRow) -> None:
        self._send("on_epoch", asdict(row))

    def on_resume(self, rows: Sequence[EpochRow]) -> None:
        self._send("on_resume", [asdict(row) for row in rows])


def pass_on(callbacks: Options, event: str, arguments: Sequence[Any]) -> None:
    """Call the callbacks of a run with what its worker reported."""
    if event == "warn":
        warnings.warn(arguments[0], Remark, stacklevel=1)
    elif not event.startswith("on_"):
        if (callback := callbacks.get(event)) is not None:
            callback(*arguments)  # type: ignore[operator]
    else:
        for watcher in callbacks.get("watchers") or ():
            if event == "on_resume":
                resume_callback(watcher, [EpochRow(**row) for row in arguments[0]])
            elif event == "on_epoch":
                watcher.on_epoch(EpochRow(**arguments[0]))
            else:
                getattr(watcher, event)(*arguments)
