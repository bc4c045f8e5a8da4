"""A term that ends midway in a real training: written down, and resumed to the bit before and after its end."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lgkd.config import AdaptiveStop, TermSchedule
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.errors import Paused
from lgkd.losses import BlockGuidance, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.runner.record import CsvLogger
from lgkd.runs.folder import METRICS
from lgkd.training.checkpoint import load_newest
from tests.support.training import EPOCHS, STEPS, StopAfter, TinyViT, digest, train, without_times

ENDED = 3
"""The epoch after which the terms end: one of warm-up, and two windows of one."""


def make_task(*, other: bool = False) -> Guided:
    """All blocks guided until the loss falls by less than nine tenths in a window; with a term beside it that stays."""
    torch.manual_seed(1)
    student = TinyViT()
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    stop = TermSchedule(warmup=1, adaptive=AdaptiveStop(-0.9, window=1, relative=True))
    terms = [Term(BlockGuidance(), 2.5, "blocks", stop)] + [Term(MapLoss("attention"), 10.0)] * other
    student.lgkd_blocks = ("blocks.0", "blocks.1", "blocks.2")
    guide = Guide(student, teacher, image_size=8, terms=terms, taps=student.lgkd_blocks)
    return Guided(student, guide)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    said: list[str] = []
    task, rows = train(root / "checkpoint", task=make_task(), say=said.append, callbacks=(CsvLogger(root),))
    return {"root": root, "task": task, "rows": rows, "said": said, "digest": digest(root / "checkpoint")}


def test_the_end_is_said_written_down_and_the_teacher_is_not_run_any_more(undisturbed: dict[str, Any]) -> None:
    (sentence,) = (text for text in undisturbed["said"] if "ended" in text)
    assert sentence.startswith(f"blocks ended after epoch {ENDED}: its loss changes by -")
    with (undisturbed["root"] / METRICS).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["weight_blocks"]) for row in rows] == [2.5 * (STEPS - 1) / STEPS, 2.5, 2.5, 0.0]
    assert [bool(row["loss_blocks"]) for row in rows] == [True] * ENDED + [False] * (EPOCHS - ENDED)
    for row in rows[ENDED:]:
        assert float(row["loss"]) == pytest.approx(float(row["loss_classification"]), rel=1e-6)
    guide = undisturbed["task"].guide
    assert guide.active == () and guide.teacher_runner.pruned is None


@pytest.mark.parametrize("steps", [3, ENDED * STEPS - 1, ENDED * STEPS, ENDED * STEPS + 3])
def test_paused_before_at_and_after_the_end_it_goes_on_to_the_bit(
    steps: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(Paused):
        train(tmp_path, task=make_task(), stop=StopAfter(steps), every=1e9)
    assert load_newest(tmp_path).step == steps
    said: list[str] = []
    task, rows = train(tmp_path, task=make_task(), every=1e9, say=said.append)
    assert digest(tmp_path) == undisturbed["digest"] and without_times(rows) == without_times(undisturbed["rows"])
    for name, value in task.state_dict().items():
        assert torch.equal(value, undisturbed["task"].state_dict()[name]), name
    assert any("ended" in text for text in said) == (steps < ENDED * STEPS), "what has ended does not end again"


class Crash(Exception):
    """Not one of lgkd's."""


class CrashIn:
    """A watcher that fails when it hears of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_start(self, *_: Any) -> None: ...
    def on_step(self, *_: Any) -> None: ...

    def on_epoch(self, row: Any) -> None:
        if row.epoch == self.epoch:
            raise Crash


@pytest.mark.parametrize("epoch", [ENDED - 1, ENDED])
def test_a_crash_before_the_term_ends_or_as_it_does_is_made_good(
    epoch: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(Crash):
        train(tmp_path, task=make_task(), callbacks=(CrashIn(epoch),))
    assert load_newest(tmp_path).step == epoch * STEPS - 1
    _, rows = train(tmp_path, task=make_task())
    assert digest(tmp_path) == undisturbed["digest"] and without_times(rows) == without_times(undisturbed["rows"])


def test_a_term_that_stays_goes_on_after_the_other_has_ended() -> None:
    task, rows = train(None, task=make_task(other=True))
    assert task.guide.active == ("guidance_attention",) and task.guide.teacher_runner.pruned is not None
    assert ["blocks" in row.train for row in rows] == [True] * ENDED + [False] * (EPOCHS - ENDED)
    assert all(row.train["guidance_attention"] > 0 for row in rows)
    assert isinstance(task.guide.losses["blocks"], nn.Module), "its projections stay in checkpoints, so that these fit"
