"""Lookahead, scaled rates of biases and flips by turns, against loops and hand-worked values."""

import pytest
import torch
from torch import nn

from lgkd.config import Lookahead, Optimizer, Schedule, View
from lgkd.data.transforms.augment import Augment
from lgkd.errors import Paused
from lgkd.training.lookahead import SlowWeights
from lgkd.training.optim import make_optimizer, parameter_groups
from tests.support.training import StopAfter, digest, make_task, train


def test_slow_weights_follow_the_formula_number_by_number() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(1.0)
    slow_weights = SlowWeights(student, Lookahead(every=2, decay=0.9), steps=4)
    fast, slow = 1.0, 1.0
    for done in (1, 2, 3, 4):
        fast += 1.0
        student.weight.data += 1.0
        slow_weights.after_step(done)
        if done in (2, 4):
            keep = 0.9**2 * (done / 4) ** 3
            slow = keep * slow + (1 - keep) * fast
            fast = slow
        assert float(student.weight.detach()) == pytest.approx(fast)
    # By hand: keep is 0.10125 and 0.81; 0.10125 + 0.89875 * 3 = 2.7975, then 0.81 * 2.7975 + 0.19 * 4.7975 = 3.1775.
    assert float(student.weight.detach()) == pytest.approx(3.1775)


def test_the_end_takes_the_slow_weights_and_statistics_of_batches_take_part() -> None:
    student = nn.BatchNorm1d(2)
    slow_weights = SlowWeights(student, Lookahead(every=5, decay=0.5), steps=10)
    student(torch.full((4, 2), 3.0))
    student.weight.data.add_(1.0)
    assert float(student.running_mean[0]) == pytest.approx(0.3)
    slow_weights.finish()
    assert torch.equal(student.running_mean, torch.zeros(2)) and torch.equal(student.weight, torch.ones(2))
    assert int(student.num_batches_tracked) == 1  # a count is not averaged


def test_a_resumed_training_with_lookahead_ends_equal_to_the_bit(tmp_path) -> None:
    settings = {"lookahead": Lookahead(every=3, decay=0.9)}
    train(tmp_path / "whole", **settings)
    with pytest.raises(Paused):
        train(tmp_path / "parts", stop=StopAfter(7), **settings)
    train(tmp_path / "parts", **settings)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    train(tmp_path / "without")
    assert digest(tmp_path / "whole") != digest(tmp_path / "without")


def test_biases_have_a_group_and_a_rate_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    plain, scaled = parameter_groups(model, 0.1), parameter_groups(model, 0.1, 64.0)
    assert [len(group["params"]) for group in plain] == [1, 3]
    assert [(len(group["params"]), group["weight_decay"], group.get("lr_scale")) for group in scaled] == [
        (1, 0.1, None),
        (3, 0.0, 64.0),
    ]


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_every_optimiser_keeps_the_factor_with_the_group(name: str) -> None:
    model = nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))})
    optimizer = make_optimizer(model, Optimizer(name, 0.1, 0.0, bias_lr_scale=4.0))
    found = {group.get("lr_scale", 1.0): len(group["params"]) for group in optimizer.param_groups}
    assert found[4.0] == 3


def test_a_step_moves_a_scaled_bias_by_so_much_more() -> None:
    def moved(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer = Optimizer("sgd", 1e-3, 0.0, momentum=0.0, nesterov=False, bias_lr_scale=scale)
        task, before = make_task(), make_task().student.head
        one_step = {"optimizer": optimizer, "schedule": Schedule(1), "steps_per_epoch": 1, "ema": None}
        train(None, task=task, clip_norm=None, **one_step)
        head = task.student.head
        return (head.bias - before.bias).detach(), (head.weight - before.weight).detach()

    (one, same), (four, also) = moved(1.0), moved(4.0)
    assert one.abs().min() > 0
    assert torch.allclose(four, 4 * one, rtol=1e-3, atol=1e-8) and torch.equal(same, also)


def test_flips_come_by_turns_and_start_at_random() -> None:
    augment = Augment(View(crop="none", alternate_flip=True), 8, mean=(0.5,) * 3, std=(0.5,) * 3, seed=1)
    index = torch.arange(400)
    sizes = torch.full((400, 2), 8)
    first, second, third = (augment.crops(sizes, index, epoch)[1] for epoch in range(3))
    assert (first == ~second).all() and (first == third).all()
    assert 150 < first.sum() < 250
    drawn = Augment(View(crop="none"), 8, mean=(0.5,) * 3, std=(0.5,) * 3, seed=1)
    assert (drawn.crops(sizes, index, 0)[1] == first).all()
    assert (drawn.crops(sizes, index, 1)[1] != second).any()
