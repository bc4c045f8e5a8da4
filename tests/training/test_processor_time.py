"""Processor time of an epoch: training and evaluation, also over a stop, and nothing between two calls."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from lgkd.training import loop
from lgkd.training.signals import Paused
from lgkd.training.state import Progress
from tests.support.training import STEPS, StopAfter, train

# A clock that advances by one second with every look: one before the steps and one after each, one after the last; two
# around the evaluation.
A_WHOLE_EPOCH = STEPS + 1 + 1


@pytest.fixture(autouse=True)
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count(100.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(**vars(loop.time) | {"process_time": lambda: next(looks)}))


def test_every_epoch_has_its_own_time() -> None:
    _, rows = train(None)
    assert [row.processor_seconds for row in rows] == [A_WHOLE_EPOCH] * 4


def test_a_stop_inside_an_epoch_loses_none_of_it(tmp_path: Path) -> None:
    with pytest.raises(Paused):
        train(tmp_path, stop=StopAfter(STEPS + 1))
    _, rows = train(tmp_path)
    assert [row.processor_seconds for row in rows] == [A_WHOLE_EPOCH] * 4


def test_a_checkpoint_of_an_older_version_has_no_time_for_the_epoch_that_it_began(tmp_path: Path) -> None:
    written = Progress.state_dict
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Paused):
        patch.setattr(
            Progress,
            "state_dict",
            lambda self: {key: value for key, value in written(self).items() if key != "processor_seconds"},
        )
        train(tmp_path, stop=StopAfter(STEPS + 1))
    _, rows = train(tmp_path)
    assert [row.processor_seconds for row in rows] == [A_WHOLE_EPOCH, None, A_WHOLE_EPOCH, A_WHOLE_EPOCH]
    assert "processor_seconds" not in rows[1].flatten()
