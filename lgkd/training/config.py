"""Define the settings of the loop; created by `lgkd.runner.build` from a recipe."""

from dataclasses import dataclass
from typing import Literal

from lgkd.config import Ema, Lookahead, Optimizer, Recipe, Sam, Schedule
from lgkd.config.declaration import check_values, default_of
from lgkd.config.optimizer import SCHEDULE_FREE
from lgkd.errors import InputError


@dataclass(frozen=True)
class Plan:
    """Hold the settings of a training.

    Attributes:
        optimizer, schedule, ema, lookahead, sam: those of a recipe; the learning rate is not scaled by the batch size.
        steps_per_epoch: optimiser steps.
        accumulate: micro-batches per step; the effective batch is that of the loader.
        precision: "fp32", "bf16" or "fp16"; already decided.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        channels_last: use the channels-last memory format, for models with convolutions whose windows overlap.
        compile: compile all models and losses of the task as one graph; with "blocks" the student's repeated blocks.
        cuda_graphs: record and replay the compiled step; needs a whole compiled step and a CUDA device.
        epochs_before: of an earlier training that this one continues; order, augmentation, dropout and the warm-up of
            the average follow them, the learning rate starts again.
    """

    optimizer: Optimizer
    schedule: Schedule
    steps_per_epoch: int
    seed: int
    accumulate: int = default_of(Recipe, "accumulate")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float | None = default_of(Recipe, "clip_norm")
    ema: Ema | None = None
    lookahead: Lookahead | None = None
    evaluate_every: int = default_of(Recipe, "evaluate_every")
    channels_last: bool = False
    compile: bool | Literal["blocks"] = False
    cuda_graphs: bool = False
    device: str = "cpu"
    epochs_before: int = 0
    sam: Sam | None = None

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise InputError(f"an epoch of {self.steps_per_epoch} steps trains nothing; expected at least 1")
        if self.schedule.warmup_epochs >= self.length:
            raise InputError(
                f"schedule.warmup_epochs is {self.schedule.warmup_epochs:g}, and {self.steps} steps are "
                f"{self.length:.3g} epochs; expected less warm-up than training: change either of the two"
            )
        averages = [name for name in ("ema", "lookahead") if getattr(self, name) is not None]
        if averages and self.optimizer.name == SCHEDULE_FREE:
            raise InputError(
                f"{averages[0]} is given, and {SCHEDULE_FREE} averages the weights itself; expected one average: leave "
                f"{averages[0]} out, or use adamw"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("fp16 needs a GPU; on a CPU use --precision bf16 or fp32")
        settings = {name: getattr(self, name) for name in ("accumulate", "precision", "clip_norm", "evaluate_every")}
        check_values(Recipe, "the plan", settings)

    @property
    def steps(self) -> int:
        """Return the optimiser steps of the whole training."""
        return self.schedule.count(self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Return the epochs of the training; the last one may be partial."""
        return -(-self.steps // self.steps_per_epoch)

    @property
    def length(self) -> float:
        """Return the epochs of the training, a partial last one as a fraction; the length of schedules."""
        return self.schedule.length(self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """Return the steps of an epoch, counted from 0."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step counted from 0.

        That of schedule-free AdamW rises linearly over the steps of the warm-up, and stays.
        """
        if self.optimizer.name == SCHEDULE_FREE:
            warmup = self.schedule.warmup_epochs * self.steps_per_epoch
            return self.optimizer.lr * min(1.0, (step + 1) / max(warmup, 1.0))
        return self.schedule.rate(self.optimizer.lr, step, self.steps_per_epoch)
