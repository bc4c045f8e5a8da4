"""The order of work on a stream beside the step, on a device that writes down what it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lgkd.data.batch import Batch
from lgkd.data.side_stream import SideStream


class Recorder:
    """Stands in for `torch.cuda`: streams and events are names."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.events, self.now = log, 0, "main"

    def Stream(self, device: torch.device) -> "Queue":
        return Queue("side", self)

    def current_stream(self, device: torch.device) -> "Queue":
        return Queue(self.now, self)

    @contextmanager
    def stream(self, stream: "Queue") -> Iterator[None]:
        self.now = stream.name
        yield
        self.now = "main"


class Queue:
    def __init__(self, name: str, owner: Recorder) -> None:
        self.name, self.owner = name, owner

    def wait_stream(self, other: "Queue") -> None:
        self.owner.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.owner.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        self.owner.events += 1
        return f"event {self.owner.events}"


def test_a_group_is_queued_before_the_one_before_it_is_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    recorder = Recorder(log)
    monkeypatch.setattr(torch, "get_device_module", lambda device: recorder)
    kept: list[tuple[int, str]] = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: kept.append((int(self.flatten()[0]), stream.name))
    )
    groups = [[0, 1], [2], [3, 4]]
    drawn = iter(groups)

    def draw() -> list[Batch] | None:
        group = next(drawn, None)
        log.append(f"draws {group} on {recorder.now}")
        if group is None:
            return None
        return [Batch(torch.full((1, 3), float(place)), torch.full((1,), 10 + place)) for place in group]

    def used() -> Iterator[Any]:
        for batch in SideStream(torch.device("cpu")).ahead(draw):
            log.append(f"uses {int(batch.images[0, 0])} on {recorder.now}")
            yield batch

    assert len(list(used())) == 5
    assert log == [
        "side waits for main",
        "draws [0, 1] on side",
        "draws [2] on side",
        "main waits for event 1",
        "uses 0 on main",
        "uses 1 on main",
        "draws [3, 4] on side",
        "main waits for event 2",
        "uses 2 on main",
        "draws None on side",
        "main waits for event 3",
        "uses 3 on main",
        "uses 4 on main",
    ]
    assert kept == [(number, "main") for place in range(5) for number in (place, 10 + place)]
