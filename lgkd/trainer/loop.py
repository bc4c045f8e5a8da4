"""The training loop. It knows tasks, not teachers: what is learned is the task's affair."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from lgkd.chance import seed_of
from lgkd.errors import NonFiniteError
from lgkd.tasks import Batch, Step, Task
from lgkd.trainer.memory import keep_freed_memory
from lgkd.trainer.meters import Meters
from lgkd.trainer.optim import make_optimizer
from lgkd.trainer.plan import Plan

_SECONDS_BETWEEN_LOOKS = 0.5


class Feed(Protocol):
    """Where batches come from; `lgkd.data.feed.Feed` is one."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


class Watcher(Protocol):
    """Someone who looks on: a progress display, a log."""

    def on_start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None: ...
    def on_epoch(self, row: "EpochRow") -> None: ...


@dataclass(frozen=True)
class EpochRow:
    """What an epoch came to; a row of metrics.csv.

    Attributes:
        epoch: counted from 1.
        lr: learning rate of the epoch's last step.
        train: means over the epoch: "loss", its parts by name, "accuracy" on the (augmented, mixed)
            training batches.
        scores: what the evaluation returned, empty where none was due.
        seconds: spent on training in this epoch, without evaluation.
        evaluation_seconds: spent on evaluation.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images_per_second: float = 0.0


Evaluate = Callable[[nn.Module], dict[str, float]]


def fit(
    task: Task,
    feed: Feed,
    plan: Plan,
    *,
    evaluate: Evaluate | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> list[EpochRow]:
    """Train a task to the end of its plan.

    Args:
        task: its weights are trained in place. With an EMA in the plan the student's weights are
            the averaged ones in the end.
        feed: yields (images, targets), one global batch a step.
        evaluate: called with the student (with an EMA: with the averaged one) after every
            `plan.evaluate_every` epochs and after the last one.
        watchers: told of every epoch and, a few times a second, of steps.

    Raises:
        NonFiniteError: a loss that is not a number, with the epoch and the parts of the loss.
    """
    random_state = torch.get_rng_state()
    if plan.device == "cpu":
        keep_freed_memory()
    accelerator = _accelerator(plan)
    try:
        return _fit(accelerator, task, feed, plan, evaluate, watchers)
    finally:
        _unwrap(task)
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_rng_state(random_state)


def _fit(
    accelerator: Accelerator,
    task: Task,
    feed: Feed,
    plan: Plan,
    evaluate: Evaluate | None,
    watchers: tuple[Watcher, ...],
) -> list[EpochRow]:
    task.to(accelerator.device)
    optimizer = make_optimizer(task, plan.optimizer)
    wrapped, optimizer = accelerator.prepare(task, optimizer)
    ema = None
    if plan.ema is not None:
        ema = ModelEmaV3(task.student, decay=plan.ema.decay, use_warmup=plan.ema.warmup, foreach=True)
    for watcher in watchers:
        watcher.on_start(plan.epochs, plan.steps_per_epoch)
    rows: list[EpochRow] = []
    for epoch in range(plan.epochs):
        wrapped.train()
        meters = Meters()
        began = looked = time.perf_counter()
        for place, (images, targets) in enumerate(feed.epoch(epoch)):
            step_number = epoch * plan.steps_per_epoch + place
            _set_rate(optimizer, plan.rate(step_number))
            # Dropout and stochastic depth must not depend on how the run got here.
            torch.manual_seed(seed_of(plan.seed, "step", step_number, accelerator.process_index))
            _step(accelerator, wrapped, optimizer, images, targets, plan, meters)
            if ema is not None:
                ema.update(task.student, step=step_number)
            now = time.perf_counter()
            if watchers and now - looked > _SECONDS_BETWEEN_LOOKS:
                looked = now
                parts = meters.read()
                _check_finite(parts, epoch, place)
                for watcher in watchers:
                    watcher.on_step(epoch, place, parts, meters.images / (now - began))
        train = meters.read()
        seconds = time.perf_counter() - began
        _check_finite(train, epoch, plan.steps_per_epoch - 1)
        scores: dict[str, float] = {}
        due = (epoch + 1) % plan.evaluate_every == 0 or epoch + 1 == plan.epochs
        evaluation_began = time.perf_counter()
        if evaluate is not None and due:
            scores = evaluate(ema.module if ema is not None else task.student)
        row = EpochRow(
            epoch=epoch + 1,
            lr=plan.rate((epoch + 1) * plan.steps_per_epoch - 1),
            train=train,
            scores=scores,
            seconds=seconds,
            evaluation_seconds=time.perf_counter() - evaluation_began,
            images_per_second=meters.images / max(seconds, 1e-9),
        )
        rows.append(row)
        for watcher in watchers:
            watcher.on_epoch(row)
    if ema is not None:
        task.student.load_state_dict(ema.module.state_dict())
    return rows


def _step(
    accelerator: Accelerator,
    task: nn.Module,
    optimizer: Any,
    images: Tensor,
    targets: Tensor,
    plan: Plan,
    meters: Meters,
) -> None:
    """One optimiser step over a global batch, in `plan.accumulate` pieces."""
    if plan.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    count = len(images)
    pieces = list(zip(images.chunk(plan.accumulate), targets.chunk(plan.accumulate), strict=True))
    for place, (some_images, some_targets) in enumerate(pieces):
        batch = Batch(some_images, some_targets)
        last = place + 1 == len(pieces)
        with nullcontext() if last else accelerator.no_sync(task):
            step: Step = task(batch)
            # Weighted by its images, a piece counts as it would in the whole batch.
            accelerator.backward(step.loss * (len(some_images) / count))
        meters.add(step, batch)
    if plan.clip_norm is not None:
        accelerator.clip_grad_norm_(task.parameters(), plan.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _accelerator(plan: Plan) -> Accelerator:
    # Its state is global to the process; a run before this one may have left another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[plan.precision]
    return Accelerator(mixed_precision=precision, cpu=plan.device == "cpu")


def _unwrap(task: nn.Module) -> None:
    """Accelerate replaces `forward` on the module itself; a trained task must not keep that."""
    for name in ("forward", "_original_forward"):
        task.__dict__.pop(name, None)


def _set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _check_finite(parts: Mapping[str, float], epoch: int, step: int) -> None:
    bad = [name for name, value in parts.items() if value != value or value in (float("inf"), float("-inf"))]
    if bad:
        raise NonFiniteError(
            f"the training went bad in epoch {epoch + 1} by step {step + 1}: {', '.join(bad)} not finite; "
            "try a lower optimizer.lr, a clip_norm of 1, or --precision fp32"
        )
