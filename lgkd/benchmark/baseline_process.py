"""Run the plain loop in a separate process: memory, threads and global settings are not shared.

It waits for requests while we are measured, and we wait while it is.
"""

from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing

from lgkd.benchmark.options import Choices
from lgkd.benchmark.timer import Part
from lgkd.errors import InputError
from lgkd.training.peak_memory import PeakMemory
from lgkd.training.precision import choose_device


class Rival:
    """Run the plain loop in another process. Use as a context manager.

    Args:
        choices: as ours.

    Attributes:
        batch_size: images a step.
        precision: resolved from "auto".
    """

    def __init__(self, choices: Choices) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, choices, torch.get_num_threads()))
        self._process.start()
        there.close()
        self.batch_size, self.precision = self._answer()

    def __enter__(self) -> "Rival":
        return self

    def __exit__(self, *exc: object) -> None:
        self._here.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()

    def parts(self) -> list[Part]:
        """Return the timed parts: "plain data", and "plain whole PRECISION" in fp32 and in our precision."""
        kinds = [("plain data", "data", "")]
        kinds += [(f"plain whole {name}", "whole", name) for name in dict.fromkeys(("fp32", self.precision))]
        return [Part(name, self.batch_size, partial(self._ask, kind, precision)) for name, kind, precision in kinds]

    def about(self) -> dict[str, Any]:
        """Return the workers of the fastest pipeline, and the loop's peak memory: without workers, after fp32 steps."""
        return dict(self._ask("about"))

    def _ask(self, *order: Any) -> Any:
        self._here.send(order)
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, value = self._here.recv()
        except EOFError:
            raise InputError(
                "the plain loop's process has ended without a message; try a smaller --batch-size"
            ) from None
        if not good:
            raise value if isinstance(value, Exception) else RuntimeError(value)
        return value


def _serve(orders: Connection, choices: Choices, threads: int) -> None:
    """Serve requests in the other process."""
    torch.set_num_threads(threads)
    try:
        from lgkd.benchmark.baseline_loop import Plain

        memory = PeakMemory(choose_device(choices.device))
        plain = Plain(choices)
        peak = None
        orders.send((True, (plain.batch_size, plain.precision)))
        while True:
            kind, *rest = orders.recv()
            if kind == "about":
                answer: Any = {"workers": plain.workers(), "peak_memory_bytes": peak}
            else:
                answer = plain.lap(kind, *rest)
                if kind == "whole" and peak is None:
                    peak = memory.read()
            orders.send((True, answer))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        orders.send((False, error))
