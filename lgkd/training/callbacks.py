"""Callbacks of a training, and the row of metrics that they receive."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Watcher(Protocol):
    """Someone who looks on: a progress display, a log.

    One that has a method `on_earlier(rows)` is told of the epochs of an earlier part of the training by that, at once,
    and not by `on_epoch`.
    """

    def on_start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None: ...
    def on_epoch(self, row: "EpochRow") -> None: ...


@dataclass(frozen=True)
class EpochRow:
    """Hold the metrics of an epoch; a row of metrics.csv.

    Attributes:
        epoch: counted from 1.
        lr: learning rate of the epoch's last step.
        train: means over the epoch: "loss", its parts by name, "accuracy" on the (augmented, mixed)
            training batches.
        scores: what the evaluation returned, empty where none was due.
        seconds: spent on training in this epoch, without evaluation.
        evaluation_seconds: spent on evaluation.
        images_per_second: over all processes, in training.
        memory_mb: the most so far that the first process held in memory, or allocated on its GPU, in 10^6 bytes;
            None in epochs that an older lgkd trained.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images_per_second: float = 0.0
    memory_mb: float | None = None
