"""Callbacks, and the row of metrics that they receive: flattened, saved and restored."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from lgkd.runner.record import CsvLogger
from lgkd.training.callbacks import Callback, EpochRow, resume_callback
from lgkd.training.tracking import Tracking

SAVED: dict[str, Any] = {
    "epoch": 2,
    "lr": 0.25,
    "train": {"loss": 3.5, "accuracy": 0.5, "near": 1.0, "weight_near": 2.5},
    "scores": {"test_top1": 0.75},
    "seconds": 1.23456,
    "evaluation_seconds": 0.5,
    "images_per_second": 99.96,
    "memory_mb": 700.04,
    "processor_seconds": 1.5,
}
ROWS = [EpochRow(epoch=epoch, lr=0.1, train={"loss": 1.0, "accuracy": 0.5}) for epoch in (1, 2)]


def test_a_row_is_saved_as_json_and_comes_back() -> None:
    row = EpochRow(**SAVED)
    assert row.state_dict() == SAVED and list(row.state_dict()) == list(SAVED)
    assert EpochRow.from_state_dict(json.loads(json.dumps(row.state_dict()))) == row


def test_a_row_becomes_the_columns_of_metrics_csv() -> None:
    assert EpochRow(**SAVED).flatten() == {
        "epoch": 2, "lr": 0.25, "loss": 3.5, "train_accuracy": 0.5, "loss_near": 1.0, "weight_near": 2.5,
        "test_top1": 0.75, "seconds": 1.235, "evaluation_seconds": 0.5, "images_per_second": 100.0, "memory_mb": 700.0,
        "processor_seconds": 1.5,
    }  # fmt: skip
    assert not {"memory_mb", "processor_seconds"} & ROWS[0].flatten().keys()


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 1.0},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": None},
        {"lr": float("nan")},
        {"lr": 10**400},
        {"lr": "0.1"},
        {"train": [1.0]},
        {"train": {"loss": None}},
        {"scores": {"test_top1": float("inf")}},
        {"seconds": None},
        {"memory_mb": "700"},
        {"processor_seconds": "1"},
        {"mood": 1.0},
    ],
)
def test_a_row_of_another_kind_is_refused(change: dict[str, Any]) -> None:
    assert EpochRow.from_state_dict(SAVED)
    with pytest.raises(ValueError, match=r"it is not a row|is missing, or not of its type"):
        EpochRow.from_state_dict(SAVED | change)


@pytest.mark.parametrize("name", [name for name in SAVED if name not in ("memory_mb", "processor_seconds")])
def test_a_row_without_one_of_its_columns_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"its {name} is missing"):
        EpochRow.from_state_dict({key: value for key, value in SAVED.items() if key != name})
    with pytest.raises(ValueError, match="it is not a row"):
        EpochRow.from_state_dict([*SAVED.items()])


def test_a_new_column_is_one_field_and_rows_from_before_it_are_read() -> None:
    @dataclass(frozen=True)
    class Later(EpochRow):
        grad_norm: float | None = None

    assert Later.from_state_dict(SAVED) == Later(**SAVED, grad_norm=None)
    assert Later.from_state_dict(SAVED | {"grad_norm": 0.5}).grad_norm == 0.5
    with pytest.raises(ValueError, match="its grad_norm"):
        Later.from_state_dict(SAVED | {"grad_norm": "large"})


def test_a_callback_overrides_what_it_needs_and_receives_earlier_epochs_as_others() -> None:
    class Epochs(Callback):
        def __init__(self) -> None:
            self.rows: list[EpochRow] = []

        def on_epoch(self, row: EpochRow) -> None:
            self.rows.append(row)

    callback = Epochs()
    callback.on_start(2, 10)
    callback.on_step(0, 0, {"loss": 1.0}, 100.0)
    assert callback.rows == []
    resume_callback(callback, ROWS)
    assert callback.rows == ROWS
    assert issubclass(CsvLogger, Callback) and issubclass(Tracking, Callback)


@pytest.mark.parametrize("name", ["on_epoch", "on_resume", "on_earlier"])
def test_an_object_that_is_not_a_callback_receives_earlier_epochs_by_the_method_that_it_has(name: str) -> None:
    class Own:
        def on_epoch(self, row: EpochRow) -> None:
            received.append(("on_epoch", row))

    received: list[Any] = []
    own = Own()
    if name != "on_epoch":
        setattr(own, name, lambda rows: received.extend((name, row) for row in rows))
    resume_callback(own, [])
    assert received == []
    resume_callback(own, ROWS)
    assert received == [(name, row) for row in ROWS]
