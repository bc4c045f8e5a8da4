"""What the loop needs to know, in plain numbers; made by `lgkd.runner.build` from a recipe."""

import math
from dataclasses import dataclass
from typing import Literal

from lgkd.config import Ema, Optimizer, Recipe, Schedule
from lgkd.config.declaration import check_values, default_of
from lgkd.errors import InputError

OptimizerName = Literal["adamw", "sgd", "muon", "lion", "nadamw"]


@dataclass(frozen=True)
class OptimizerPlan:
    """An optimiser by name. `lr` is the peak learning rate; it is not scaled by the batch size."""

    name: OptimizerName
    lr: float
    weight_decay: float
    betas: tuple[float, float] = default_of(Optimizer, "betas")
    eps: float = default_of(Optimizer, "eps")
    momentum: float = default_of(Optimizer, "momentum")
    nesterov: bool = default_of(Optimizer, "nesterov")

    def __post_init__(self) -> None:
        check_values(Optimizer, "the optimiser", vars(self))


@dataclass(frozen=True)
class SchedulePlan:
    """Half a cosine from `lr` to `min_lr`, after a linear warm-up from `warmup_factor * lr`.

    Attributes:
        epochs: length of the training.
        warmup_epochs: length of the warm-up; the cosine's clock runs from the first epoch on, so
            the warm-up replaces its beginning (as in timm).
        stepped: "epoch" keeps the rate during an epoch, "step" changes it every step.
    """

    epochs: int
    warmup_epochs: float = default_of(Schedule, "warmup_epochs")
    warmup_factor: float = default_of(Schedule, "warmup_factor")
    min_lr: float = default_of(Schedule, "min_lr")
    stepped: Literal["epoch", "step"] = default_of(Schedule, "stepped")

    def __post_init__(self) -> None:
        check_values(Schedule, "the schedule", vars(self))

    def rate(self, lr: float, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step counted from 0: a function of nothing else, so it needs no state."""
        epoch = step // steps_per_epoch if self.stepped == "epoch" else step / steps_per_epoch
        if epoch < self.warmup_epochs:
            start = self.warmup_factor * lr
            return start + (lr - start) * epoch / self.warmup_epochs
        return self.min_lr + (lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True)
class EmaPlan:
    """Exponential moving average of the student's weights."""

    decay: float = default_of(Ema, "decay")
    warmup: bool = default_of(Ema, "warmup")

    def __post_init__(self) -> None:
        check_values(Ema, "the running mean", vars(self))


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        steps_per_epoch: optimiser steps.
        accumulate: micro-batches a step; the effective batch stays what the feed yields.
        precision: "fp32", "bf16" or "fp16"; already decided.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        channels_last: whether images are laid out channels-last, for CNNs.
        compile: whether all models and losses of the task are compiled as one graph.
        cuda_graphs: whether the compiled step is recorded and replayed; needs `compile` and a CUDA device.
    """

    optimizer: OptimizerPlan
    schedule: SchedulePlan
    steps_per_epoch: int
    seed: int
    accumulate: int = default_of(Recipe, "accumulate")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float | None = default_of(Recipe, "clip_norm")
    ema: EmaPlan | None = None
    evaluate_every: int = default_of(Recipe, "evaluate_every")
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise InputError(f"an epoch of {self.steps_per_epoch} steps trains nothing; expected at least 1")
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("fp16 needs a GPU; on a CPU use --precision bf16 or fp32")
        settings = {name: getattr(self, name) for name in ("accumulate", "precision", "clip_norm", "evaluate_every")}
        check_values(Recipe, "the plan", settings)

    @property
    def epochs(self) -> int:
        return self.schedule.epochs

    def rate(self, step: int) -> float:
        """The learning rate of a step counted from 0."""
        return self.schedule.rate(self.optimizer.lr, step, self.steps_per_epoch)
