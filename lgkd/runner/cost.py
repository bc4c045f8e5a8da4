"""Estimate the cost of a training from a few of its own steps on generated images."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from torch import nn

from lgkd._internal.distributed import highest
from lgkd._internal.rng import preserved_generators
from lgkd.config import Recipe
from lgkd.data.class_balance import ClassBalance
from lgkd.data.loader import TrainLoader
from lgkd.data.prepare import Data, make_test_batches
from lgkd.distillation.guide import Guide
from lgkd.runner.batches import Batches
from lgkd.runner.build import make_task
from lgkd.training.config import Plan
from lgkd.training.evaluate import score_split
from lgkd.training.metrics import RunningMean
from lgkd.training.peak_memory import PeakMemory
from lgkd.training.timing import synchronise
from lgkd.training.train_step import Engine

_SECONDS, _LONG = 3.0, 20.0
_MOST_STEPS = 10
_MOST_TESTED = 64


@dataclass(frozen=True)
class Cost:
    """Hold measurements of time and memory on this machine.

    Attributes:
        steps: number of timed steps, after a warm-up step; 0: only that first one was timed, since it took long.
        seconds_a_step: their median.
        seconds_an_image: of evaluation.
        peak_bytes: of the memory named by `memory`.
        memory: the kind of measured memory.
        accumulate: pieces into which a batch had to be split.
        compile_seconds: of the step before those, in which a compiled training compiles; 0 for an eager one.
    """

    steps: int
    seconds_a_step: float
    seconds_an_image: float
    peak_bytes: int
    memory: str
    accumulate: int
    compile_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def measure(
    student: nn.Module, guides: Sequence[Guide], recipe: Recipe, data: Data, loader: TrainLoader, plan: Plan,
    image_size: tuple[int, int], memory: PeakMemory, *, longest: float = _SECONDS,
) -> Cost:  # fmt: skip
    """Time some steps and one batch of evaluation.

    Args:
        student, guides, recipe, data, loader, plan, image_size: of the training; `data` are generated images.
        memory: a meter started before the models were built.
        longest: seconds for steps; with the default at most ten are made.
    """
    with preserved_generators(plan.device):
        kind = ClassBalance(multi_label=data.multi_label)
        engine = Engine(make_task(student, guides, recipe, kind), plan, names=loader.names)
        batches = Batches(loader)
        meters = RunningMean()

        def step() -> float:
            began = time.perf_counter()
            batch = next(batches)
            # Always the first step of a training: its learning rate is the warm-up's, so nothing diverges.
            engine.step(batch, 0, 0, meters)
            synchronise(plan.device)
            return time.perf_counter() - began

        try:
            engine.task.train()
            compiling = step() if plan.compile else 0.0
            first = step()
            times: list[float] = []
            while _is_one_more(first, times, longest):
                times.append(step())
            peak = memory.read()
            plain = make_test_batches(
                data.test,
                image_size=image_size,
                mean=data.mean,
                std=data.std,
                interpolation=recipe.test_interpolation,
                device=plan.device,
            )
            some = [(images[:_MOST_TESTED], targets[:_MOST_TESTED]) for images, targets in islice(plain, 1)]
            few = [(images[:1], targets[:1]) for images, targets in some]
            for shown in (few, some):  # the first call takes longer than the next ones
                began = time.perf_counter()
                score_split(engine.eval_model, shown, precision=plan.precision, channels_last=plan.channels_last)
                each = (time.perf_counter() - began) / len(shown[0][0])
            pace = statistics.median(times or [first])
            return Cost(len(times), pace, each, peak, memory.kind, engine.accumulate, compiling)
        finally:
            batches.close()
            engine.close()


def _is_one_more(first: float, times: Sequence[float], longest: float) -> bool:
    """Decide on one more step, alike in all processes: they make each step together."""
    most = _MOST_STEPS * max(1.0, longest / _SECONDS)
    enough = first >= _LONG or len(times) >= most or sum(times) >= longest
    return not highest([float(enough)])[0]
