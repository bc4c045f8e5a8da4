"""Profile a step: its time by part, and by operation."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from lgkd.benchmark.subject import Subject
from lgkd.training.timing import synchronise

_ROWS = 15
_LARGEST = 5


class Stopwatch:
    """Add up durations by name; time of an inner part is not counted for the outer one.

    Args:
        device: synchronised at every start and stop, so that a GPU's time is counted for its cause.
    """

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    def start(self, name: str) -> None:
        """Start a part."""
        self._settle()
        self._open.append(name)

    def stop(self) -> None:
        """Stop the part that was started last."""
        self._settle()
        self._open.pop()

    def _settle(self) -> None:
        synchronise(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def around(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Time every call of `owner.attribute` as `name`, until the end of the block."""
        plain = getattr(owner, attribute)
        own = attribute in vars(owner)

        @functools.wraps(plain)
        def watched(*args: Any, **words: Any) -> Any:
            self.start(name)
            try:
                return plain(*args, **words)
            finally:
                self.stop()

        setattr(owner, attribute, watched)
        try:
            yield
        finally:
            setattr(owner, attribute, plain) if own else delattr(owner, attribute)

    @contextmanager
    def around_optimisers(self, name: str) -> Iterator[None]:
        """Time the steps of all optimisers, until the end of the block."""
        before = register_optimizer_step_pre_hook(lambda *_: self.start(name))
        after = register_optimizer_step_post_hook(lambda *_: self.stop())
        try:
            yield
        finally:
            before.remove()
            after.remove()


def time_shares(subject: Subject, steps: int) -> dict[str, float]:
    """Return shares of the time of eager steps by part; they add up to 1.

    "rest" is the classification loss, the norm of the gradient, the guard, the meters, and casting.
    """
    watch, guide = Stopwatch(subject.device), subject.guide
    with ExitStack() as stack:
        stack.enter_context(watch.around(subject, "draw", "data"))
        if guide is not None:
            stack.enter_context(watch.around(guide, "read", "student forward"))
            stack.enter_context(watch.around(guide, "forward", "terms"))
            stack.enter_context(watch.around(guide, "teach", "teacher"))
        else:
            stack.enter_context(watch.around(subject.model, "forward", "student forward"))
        stack.enter_context(watch.around(torch.autograd, "backward", "backward"))
        stack.enter_context(watch.around_optimisers("optimiser"))
        for _ in range(steps):
            watch.start("rest")
            subject.whole()
            watch.stop()
    parts = ["data", "student forward", "teacher", "terms", "backward", "optimiser", "rest"]
    total = sum(watch.seconds.values())
    return {name: watch.seconds[name] / total for name in parts if name in watch.seconds}


def write_profile(step: Callable[[], object], device: str, file: Path, *, steps: int) -> list[dict[str, Any]]:
    """Profile some steps: write a table of the costliest operations to a file, return the five largest.

    Args:
        step: the profiled function.
        device: profiled beside the host.
        file: text.
        steps: number of steps.
    """
    on_gpu = torch.device(device).type == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(steps):
            step()
        synchronise(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = profiler.key_averages()
    largest = sorted(averages, key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in largest) or 1
    file.write_text(averages.table(sort_by=key, row_limit=_ROWS) + "\n", encoding="utf-8")
    return [
        {
            "operation": event.key,
            "share": getattr(event, key) / total,
            "milliseconds_per_step": getattr(event, key) / steps / 1000,
            "calls_per_step": event.count / steps,
        }
        for event in largest[:_LARGEST]
    ]
