"""Early stopping: which evaluation ends a training, and that a resumed training ends at the same one."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.config import EarlyStopping
from lgkd.distillation.tasks import Supervised
from lgkd.errors import Paused
from lgkd.training import loop
from lgkd.training.callbacks import EpochRow
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.early_stopping import EarlyStop
from lgkd.training.loop import fit
from lgkd.training.signals import StopCondition
from tests.support.fixed_batches import Images, make_plan, make_student


def rows(*scores: float | None) -> list[EpochRow]:
    return [
        EpochRow(epoch, 0.1, {"loss": 1.0, "accuracy": 0.0}, {} if score is None else {"val_top1": score})
        for epoch, score in enumerate(scores, 1)
    ]


def judge(patience: int = 2, min_delta: float = 0.0, warmup: float = 0.0) -> EarlyStop:
    return EarlyStop(EarlyStopping(patience, min_delta), "val_top1", warmup)


def ends(one: EarlyStop, scores: list[float | None]) -> int | None:
    """The epoch after which a training of these scores ends; None where it does not."""
    found = rows(*scores)
    return next((count for count in range(1, len(found) + 1) if one.stops(found[:count])), None)


@pytest.mark.parametrize(
    ("one", "scores", "epoch"),
    [
        (judge(2), [0.1, 0.5, 0.5, 0.4, 0.9], 4),  # an equal score is no improvement
        (judge(2), [0.1, 0.5, 0.4, 0.6, 0.5], None),  # not two in a row
        (judge(1), [0.1, 0.2, 0.2], 3),
        (judge(2, min_delta=0.05), [0.50, 0.52, 0.54], 3),  # 0.54 is compared with 0.50, which is still the best
        (judge(2, min_delta=0.05), [0.50, 0.52, 0.56, 0.55], None),
        (judge(2, warmup=3), [0.9, 0.1, 0.1, 0.3, 0.4, 0.4, 0.4], 7),  # the 0.9 of the warm-up is not compared with
        (judge(2, warmup=2.5), [0.9, 0.1, 0.3, 0.2, 0.2], 5),  # epochs 3, 4 and 5 are judged
        (judge(2), [0.5, None, None, None, 0.4, None, 0.4], 7),  # evaluations count, not epochs
        (judge(2), [math.nan, math.nan, 0.1, math.nan], 2),
    ],
)
def test_the_evaluation_that_ends_a_training(one: EarlyStop, scores: list[float | None], epoch: int | None) -> None:
    assert ends(one, scores) == epoch


def test_it_ends_where_keras_would() -> None:
    """Keras' EarlyStopping written out: `wait` grows at each epoch, and is 0 again where score - min_delta > best."""
    draw = random.Random(0)
    ended = 0
    for _ in range(300):
        patience, delta = draw.randint(1, 5), draw.choice([0.0, 0.02])
        scores: list[float | None] = [round(draw.random(), 2) for _ in range(12)]
        best, wait, expected = -math.inf, 0, None
        for epoch, score in enumerate(scores, 1):
            assert score is not None
            wait += 1
            if score - delta > best:
                best, wait = score, 0
            if wait >= patience:
                expected = epoch
                break
        assert ends(judge(patience, delta), scores) == expected
        ended += expected is not None
    assert 50 < ended < 300


class Scores:
    """An evaluation with given scores, by the number of times that it was asked."""

    def __init__(self, *scores: float, asked: int = 0) -> None:
        self.scores, self.asked = scores, asked

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        self.asked += 1
        return {"val_top1": self.scores[self.asked - 1], "test_top1": 0.5}


SCORES = (0.1, 0.4, 0.3, 0.35, 0.3, 0.2, 0.9, 0.9)


def train(tmp_path: Path | None, *, stop: StopCondition | None = None, asked: int = 0, **words: Any) -> Any:
    torch.manual_seed(0)
    student = make_student(dropout=0.1)
    said: list[str] = []
    saved = None
    if tmp_path is not None:
        saved = Checkpointer(tmp_path, every_seconds=1e9, select_on="val_top1", say=said.append)
    evaluate = Scores(*SCORES, asked=asked)
    found = fit(
        Supervised(student), Images(), make_plan(8), evaluate=evaluate, checkpointer=saved, stop=stop, say=said.append,
        early_stop=judge(3), **words,
    )  # fmt: skip
    return student, found, said, evaluate


def test_the_loop_ends_after_the_evaluation_saves_and_says_so(tmp_path: Path) -> None:
    student, found, said, _ = train(tmp_path)
    assert [row.epoch for row in found] == [1, 2, 3, 4, 5]
    assert said == ["stopped early after epoch 5 of 8: val_top1 of held-out images has not improved in 3 evaluations"]
    # The same call again trains nothing more, as after a kill between the last checkpoint and the results.
    again, rows_again, said_again, evaluate = train(tmp_path)
    assert [row.epoch for row in rows_again] == [1, 2, 3, 4, 5] and evaluate.asked == 0
    assert said_again[-1] == said[0] and said_again[0].startswith("resuming from epoch 6")
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), again.parameters(), strict=True))
    weights, best = Checkpointer(tmp_path, select_on="val_top1").load_best()
    assert best == {"epoch": 2, "score": 0.4} and weights.keys() == student.state_dict().keys()


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_resumed_training_ends_at_the_same_epoch_with_the_same_bits(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected, *_ = train(tmp_path / "whole")

    class Once(StopCondition):
        """Stop after so many epochs."""

        def __init__(self) -> None:
            super().__init__(None)
            self.epochs = 0

        def on_start(self, epochs: int, steps: int) -> None: ...
        def on_step(self, *_: Any) -> None: ...
        def on_resume(self, rows: Any) -> None: ...
        def on_epoch(self, row: EpochRow) -> None:
            self.epochs = row.epoch

        def reason(self) -> Paused | None:
            return Paused("paused") if self.epochs == after else None

    once = Once()
    with pytest.raises(Paused):
        train(tmp_path / "mine", stop=once, callbacks=(once,))
    student, found, said, evaluate = train(tmp_path / "mine", asked=after)
    assert [row.epoch for row in found] == [1, 2, 3, 4, 5] == [row.epoch for row in expected]
    assert evaluate.asked == 5 and "stopped early after epoch 5 of 8" in said[-1]
    assert [row.train for row in found] == [row.train for row in expected]
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), whole.parameters(), strict=True))


def test_processes_end_together_where_one_of_them_would(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[float]] = []

    def highest(values: list[float]) -> list[float]:
        asked.append(values)
        return [float(len(asked) == 4)]  # before the first epoch, and after each: another process ends after the third

    monkeypatch.setattr(loop, "highest", highest)
    _, found, said, _ = train(None)
    assert len(found) == 3 and asked == [[0.0]] * 4 and "after epoch 3 of 8" in said[-1]


def test_without_early_stopping_or_in_the_last_epoch_nothing_ends_early(tmp_path: Path) -> None:
    student = make_student()
    all_epochs = fit(Supervised(student), Images(), make_plan(5), evaluate=Scores(*SCORES))
    assert len(all_epochs) == 5
    said: list[str] = []
    at_the_end = fit(
        Supervised(make_student()), Images(), make_plan(5), evaluate=Scores(*SCORES), say=said.append,
        early_stop=judge(3),
    )  # fmt: skip
    assert len(at_the_end) == 5 and not said, "the fifth of five epochs is the end of the plan"
