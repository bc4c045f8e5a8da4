"""Run the training loop: epochs of steps, evaluation, rows of metrics, checkpoints."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from lgkd._internal.distributed import all_reduce_sum, highest
from lgkd._internal.rng import preserved_generators
from lgkd.distillation.tasks import Batch, Lookup
from lgkd.errors import NonFiniteError
from lgkd.training.agreement import Agreement
from lgkd.training.callbacks import Callback, EpochRow, resume_callback
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.config import Plan
from lgkd.training.early_stopping import EarlyStop
from lgkd.training.memory import highest_memory, keep_freed_memory, no_remedy_for_memory
from lgkd.training.metrics import RunningMean
from lgkd.training.signals import StopCondition
from lgkd.training.state import Progress
from lgkd.training.tracking import Tracking
from lgkd.training.train_step import Engine

_SECONDS_BETWEEN_LOOKS = 0.5
_MODELS_NEED = "use a smaller model, no ema, or a larger device, and see whether another process uses it"


class Loader(Protocol):
    """Yield batches by epoch, as `lgkd.data.loader.TrainLoader` does."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of every global batch from step `start` on, with its `index`."""
        ...

    def names(self, index: Tensor) -> list[str]:
        """Return the names of the samples of these indices."""
        ...


Evaluate = Callable[[nn.Module], dict[str, float]]


def fit(
    task: nn.Module,
    loader: Loader,
    plan: Plan,
    *,
    evaluate: Evaluate | None = None,
    callbacks: tuple[Callback, ...] = (),
    checkpointer: Checkpointer | None = None,
    stop: StopCondition | None = None,
    say: Callable[[str], None] | None = None,
    lookup: Lookup | None = None,
    tracking: Tracking | None = None,
    early_stop: EarlyStop | None = None,
) -> list[EpochRow]:
    """Train a task to the end of its plan, or until it no longer improves.

    A training that was stopped is resumed from the checkpoint of `checkpointer`.

    Args:
        task: a `Task`, or a module with a `student` and `forward(batch) -> Step`; trained in place. With an EMA or
            schedule-free AdamW in the plan the student's weights are the averaged ones in the end.
        loader: yields one `Batch` a step, with its `index`.
        evaluate: called with the student (where there is an average: with that) after every
            `plan.evaluate_every` epochs and after the last one.
        callbacks: receive every epoch and, a few times a second, steps; after a resume first the earlier epochs.
        checkpointer: saves and restores; None: nothing is saved.
        stop: asked after every step; of several processes at least every two seconds or 20 steps.
        say: called with messages for the user, such as that a term has ended.
        lookup: returns `Batch.taught` for samples from a cache; None: it is computed.
        tracking: one more callback, closed with the training in any case.
        early_stop: ends the training after an evaluation; several processes end it together. None: all epochs.

    Returns:
        All epochs, including those before a resume.

    Raises:
        NonFiniteError: a loss, gradient or weight is not finite; the message names part and samples.
        Paused, Interrupted: requested by `stop`; the training is saved.
    """
    if plan.device == "cpu":
        keep_freed_memory()
    with preserved_generators(plan.device):
        with no_remedy_for_memory(f"when the models were moved to {plan.device}", _MODELS_NEED):
            engine = Engine(task, plan, names=loader.names, lookup=lookup)
        try:
            everyone = callbacks if tracking is None else (*callbacks, tracking)
            training = _Training(
                engine,
                loader,
                evaluate,
                everyone,
                checkpointer,
                stop or StopCondition(),
                say or (lambda _: None),
                early_stop,
            )
            training.restore()  # first: if that is refused, nothing is written for trackers either
            with tracking or nullcontext():
                return training.run()
        finally:
            engine.close()


class _Training:
    """Run one training: restore, step, evaluate, save."""

    def __init__(
        self,
        engine: Engine,
        loader: Loader,
        evaluate: Evaluate | None,
        callbacks: tuple[Callback, ...],
        checkpointer: Checkpointer | None,
        stop: StopCondition,
        say: Callable[[str], None],
        early_stop: EarlyStop | None,
    ) -> None:
        self.engine, self.plan, self.loader = engine, engine.plan, loader
        self.evaluate, self.callbacks, self.checkpointer = evaluate, callbacks, checkpointer
        self.agreement = Agreement(stop, checkpointer)
        self.say, self.early_stop = say, early_stop
        self.progress = Progress(accumulate=self.plan.accumulate)
        self.meters = RunningMean(engine.task.correct)

    def restore(self) -> None:
        if self.checkpointer is not None:
            self.progress = self.checkpointer.restore(self.engine, self.meters) or self.progress
        self.engine.accumulate = self.progress.accumulate

    def run(self) -> list[EpochRow]:
        for callback in self.callbacks:
            callback.on_start(self.plan.epochs, self.plan.steps_per_epoch)
            resume_callback(callback, self.progress.rows)
        stopped = self._stops_early()  # also a training that was killed between its last checkpoint and its results
        for epoch in range(self.progress.epoch, self.plan.epochs):
            if stopped:
                break
            self._train_epoch(epoch)
            stopped = self._finish_epoch(epoch)
        if stopped and self.early_stop is not None:
            self.say(self.early_stop.in_words(self.progress.epoch, self.plan.epochs))
        self.engine.finish()
        return self.progress.rows

    def _train_epoch(self, epoch: int) -> None:
        progress, engine = self.progress, self.engine
        engine.task.train()
        began = looked = time.perf_counter()
        before, images_before = progress.seconds, self.meters.images
        clock = _ProcessorClock(progress)
        for batch in self._batches(epoch):
            engine.step(batch, epoch, progress.step, self.meters)
            progress.step += 1
            progress.accumulate = engine.accumulate
            now = time.perf_counter()
            progress.seconds = before + now - began
            clock.read()
            if self.callbacks and now - looked > _SECONDS_BETWEEN_LOOKS:
                looked = now
                rate = (self.meters.images - images_before) * engine.processes / (now - began)
                parts = self.meters.read()
                for callback in self.callbacks:
                    callback.on_step(epoch, progress.step - 1, parts, rate)
            if progress.step == self.plan.steps_of(epoch):
                break  # at the end of an epoch, stop and save after the evaluation
            reason, due = self.agreement.after_step()
            if reason is not None or due:
                self._save()
            if reason is not None:
                raise reason
        engine.guard.settle()
        progress.seconds = before + time.perf_counter() - began
        clock.read()

    def _batches(self, epoch: int) -> Iterator[Batch]:
        with no_remedy_for_memory("while a batch was read and augmented", "use a smaller --batch-size"):
            yield from self.loader.epoch(self.plan.epochs_before + epoch, self.progress.step)

    def _stops_early(self) -> bool:
        """Return true if the training ends before its last epoch; the same in all processes, which call it together."""
        if self.early_stop is None or self.progress.epoch == self.plan.epochs:
            return False
        return bool(highest([float(self.early_stop.stops(self.progress.rows))])[0])

    def _finish_epoch(self, epoch: int) -> bool:
        """Evaluate, record and save an epoch; return true if the training ends early after it."""
        progress, plan = self.progress, self.plan
        train = self.meters.read(all_reduce_sum)
        if not all(abs(value) < float("inf") for value in train.values()):
            raise NonFiniteError(f"non-finite values in epoch {epoch + 1}: {train}; try a lower optimizer.lr")
        scores: dict[str, float] = {}
        began, clock = time.perf_counter(), _ProcessorClock(progress)
        if self.evaluate is not None and ((epoch + 1) % plan.evaluate_every == 0 or epoch + 1 == plan.epochs):
            with no_remedy_for_memory("in the evaluation", "use smaller images, a smaller model or a larger device"):
                scores = self.evaluate(self.engine.eval_model)
        images = int(all_reduce_sum(torch.tensor(self.meters.images)))
        train |= {f"weight_{name}": weight for name, weight in self.engine.task.current_weights().items()}
        for message in self.engine.task.on_epoch_end(epoch + 1, train):
            self.say(message)
        evaluation_seconds = time.perf_counter() - began
        clock.read()
        row = EpochRow(
            epoch=epoch + 1,
            lr=plan.rate(epoch * plan.steps_per_epoch + plan.steps_of(epoch) - 1),
            train=train,
            scores=scores,
            seconds=progress.seconds,
            evaluation_seconds=evaluation_seconds,
            images_per_second=images / max(progress.seconds, 1e-9),
            memory_mb=highest_memory(self.engine.device) / 1e6,
            processor_seconds=_over_processes(progress.processor_seconds),
        )
        progress.rows.append(row)
        progress.epoch, progress.step, progress.seconds = epoch + 1, 0, 0.0
        progress.processor_seconds = 0.0
        self.meters.load_state_dict({}, 0, self.engine.device)
        if self.checkpointer is not None and self.checkpointer.is_best(row, progress):
            self.checkpointer.save_best(self.engine, progress)
        for callback in self.callbacks:
            callback.on_epoch(row)
        stopped = self._stops_early()
        last = stopped or progress.epoch == plan.epochs
        reason, due = self.agreement.now() if not last else (None, True)
        if reason is not None or due:
            self._save()
        if reason is not None:
            raise reason
        return stopped

    def _save(self) -> None:
        self.engine.guard.settle()
        if self.checkpointer is not None:
            self.checkpointer.save(self.engine, self.progress, self.meters)


class _ProcessorClock:
    """Add the processor time of this process to the current epoch's, from its creation on."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._before, self._began = progress, progress.processor_seconds, time.process_time()

    def read(self) -> None:
        """Update the epoch's time."""
        if self._before is not None:
            self._progress.processor_seconds = self._before + time.process_time() - self._began


def _over_processes(seconds: float | None) -> float | None:
    """Return the sum over all processes; None if one of them does not know its own."""
    known = all_reduce_sum(
        torch.tensor([0.0 if seconds is None else seconds, float(seconds is None)], dtype=torch.float64)
    )
    return None if known[1] else float(known[0])
