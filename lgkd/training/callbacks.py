"""Define callbacks of a training, and the row of metrics that they receive."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self


class Callback:
    """Follow a training: a progress display, a log. Subclasses override the methods that they need.

    Any object that has `on_start`, `on_step` and `on_epoch` can be used as a callback, too.
    """

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        """Prepare for a training of so many epochs; also before one that is resumed."""

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        """Receive the means of the loss and its parts so far, a few times a second; epoch and step count from 0."""

    def on_epoch(self, row: "EpochRow") -> None:
        """Receive the metrics of a finished epoch."""

    def on_resume(self, rows: Sequence["EpochRow"]) -> None:
        """Receive the epochs before a resume, if there are any; by default as if they were just finished."""
        for row in rows:
            self.on_epoch(row)


def resume_callback(callback: Any, rows: Sequence["EpochRow"]) -> None:
    """Pass the epochs before a resume to a callback; one without `on_resume` receives each by `on_epoch`."""
    if not rows:
        return
    # An earlier name of the method is accepted from objects that are not a `Callback`.
    on_resume = getattr(callback, "on_resume", None) or getattr(callback, "on_earlier", None)
    if on_resume is not None:
        on_resume(rows)
        return
    for row in rows:
        callback.on_epoch(row)


@dataclass(frozen=True)
class EpochRow:
    """Hold the metrics of an epoch; a row of metrics.csv.

    A field that may be None may be missing in checkpoints of earlier versions.

    Attributes:
        epoch: counted from 1.
        lr: learning rate of the epoch's last step.
        train: means over the epoch: "loss", its parts by name, "accuracy" on the (augmented, mixed)
            training batches; "weight_NAME" is the weight of a scheduled term at the epoch's last step.
        scores: what the evaluation returned, empty where none was due.
        seconds: spent on training in this epoch, without evaluation.
        evaluation_seconds: spent on evaluation.
        images_per_second: over all processes, in training.
        memory_mb: peak memory of the first process so far, or allocated on its GPU, in 10^6 bytes; None in epochs
            trained by older versions.
        processor_seconds: processor time of training and evaluation, over all processes and their threads; None in
            epochs trained by older versions.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images_per_second: float = 0.0
    memory_mb: float | None = None
    processor_seconds: float | None = None

    def flatten(self) -> dict[str, float]:
        """Return the columns of metrics.csv: `loss` is the weighted sum, `loss_NAME` its unweighted parts."""
        train = dict(self.train)
        return {
            "epoch": self.epoch,
            "lr": self.lr,
            "loss": train.pop("loss"),
            "train_accuracy": train.pop("accuracy"),
            **{name if name.startswith("weight_") else f"loss_{name}": value for name, value in train.items()},
            **self.scores,
            "seconds": round(self.seconds, 3),
            "evaluation_seconds": round(self.evaluation_seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            **({} if self.memory_mb is None else {"memory_mb": round(self.memory_mb, 1)}),
            **({} if self.processor_seconds is None else {"processor_seconds": round(self.processor_seconds, 3)}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the row in JSON values, for a checkpoint."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Any) -> Self:
        """Restore a row from a checkpoint.

        Raises:
            ValueError: a column is missing, unknown, or not of its type.
        """
        known = {column.name: column.type for column in fields(cls)}
        if not isinstance(state, dict) or not state.keys() <= known.keys():
            raise ValueError("it is not a row of metrics")
        for name, kind in known.items():
            if not _VALID[kind](state.get(name)):
                raise ValueError(f"its {name} is missing, or not of its type")
        return cls(**state)


def is_count(value: Any) -> bool:
    """Return True for an integer >= 0 that a float represents exactly."""
    return type(value) is int and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Return True for a finite number."""
    # JSON allows integers beyond the range of a float, and Python's reader NaN and Infinity.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def are_numbers(value: Any) -> bool:
    """Return True for a mapping to finite numbers."""
    return isinstance(value, dict) and all(is_number(number) for number in value.values())


_VALID: dict[Any, Callable[[Any], bool]] = {
    int: is_count,
    float: is_number,
    float | None: lambda value: value is None or is_number(value),
    dict[str, float]: are_numbers,
}
"""Checks of a column by its type."""
