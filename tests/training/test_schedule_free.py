"""Schedule-free AdamW: against the formula in NumPy and published code, and in trainings, stopped and extended."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lgkd.config import Ema, Lookahead, Optimizer, Sam, Schedule, apply_overrides, load_recipe
from lgkd.config.optimizer import SCHEDULE_FREE
from lgkd.distillation.tasks import Supervised
from lgkd.errors import InputError, NonFiniteError, Paused, RecipeError
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.training.checkpoint import load_newest
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.optim import make_optimizer
from lgkd.training.schedule_free import AveragedStudent, ScheduleFreeAdamW
from lgkd.training.train_step import Engine
from tests.support.training import EPOCHS, STEPS, StopAfter, TinyViT, digest, make_images, make_loader, make_plan, train

FIRST = [[1.0, -2.0, 3.0], [0.5, 0.25, -1.5]]


class Small(nn.Module):
    """A matrix, which decays, and a bias, which does not, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(FIRST, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))


def gradients(weight: Any, bias: Any, step: int) -> tuple[Any, Any]:
    """Those of k sum(sin(w) (1 2 3)) + sum((b - k)^4) / 2, with k = 1 + cos(step) / 2, for arrays."""
    k = 1 + 0.5 * np.cos(step)
    return k * np.cos(weight) * np.array([1.0, 2.0, 3.0]), 2 * (bias - k) ** 3


def made(betas: tuple[float, float], decay: float) -> tuple[Small, ScheduleFreeAdamW]:
    model = Small()
    settings = Optimizer(SCHEDULE_FREE, lr=0.1, weight_decay=decay, betas=betas)
    optimizer = make_optimizer(model, settings)
    assert isinstance(optimizer, ScheduleFreeAdamW)
    return model, optimizer


def twenty(warmup: int, betas: tuple[float, float], decay: float) -> list[list[Tensor]]:
    """y and x of both weights after 20 steps."""
    model, optimizer = made(betas, decay)
    for step in range(20):
        found = gradients(model.weight.detach().numpy(), model.bias.detach().numpy(), step)
        for weight, gradient in zip(model.parameters(), found, strict=True):
            weight.grad = torch.from_numpy(gradient)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (step + 1) / max(warmup, 1))
        optimizer.step()
    weights = [*model.parameters()]
    return [[weight.detach() for weight in weights], [optimizer.average_of(weight) for weight in weights]]


def by_hand(warmup: int, betas: tuple[float, float], decay: float) -> list[list[np.ndarray]]:
    """The formula with all three weights and without any other state."""
    first, second = betas
    y = [np.array(FIRST), np.array([0.1, -0.2])]
    x, z, v = [one.copy() for one in y], [one.copy() for one in y], [0.0, 0.0]
    rates: list[float] = []
    for step in range(20):
        rate = 0.1 * min(1.0, (step + 1) / max(warmup, 1))
        rates.append(rate)
        share = rate**2 / sum(one**2 for one in rates)
        for number, slope in enumerate(gradients(*y, step)):
            v[number] = second * v[number] + (1 - second) * slope**2
            way = slope / (np.sqrt(v[number] / (1 - second ** (step + 1))) + 1e-8)
            z[number] = z[number] - rate * (way + (decay if number == 0 else 0.0) * y[number])
            x[number] = (1 - share) * x[number] + share * z[number]
        y = [first * one + (1 - first) * other for one, other in zip(x, z, strict=True)]
    return [y, x]


# y and x of weight and bias after these steps by the reference of github.com/facebookresearch/schedule_free at 70785b5.
GOLDEN = {
    (5, (0.9, 0.999), 0.05): [
        [-0.1631456749, -1.514186591, 3.757839188, -0.4946794908, -0.6833632104,
         -1.569146888, 0.573958508, 0.335572716],
        [-0.06557796022, -1.519555416, 3.698762791, -0.4160258817, -0.6120679551,
         -1.568756522, 0.5421352838, 0.299444664],
    ],
    (0, (0.95, 0.99), 0.0): [
        [-0.11502497, -1.523305805, 3.93850459, -0.4984137155, -0.7061142824,
         -1.571156355, 0.590687674, 0.3558483174],
        [-0.06124662685, -1.525912124, 3.897959845, -0.4530233779, -0.6641129787,
         -1.570506237, 0.5718492402, 0.3343893351],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("way", "golden"), GOLDEN.items(), ids=["warm-up-and-decay", "neither"])
def test_twenty_steps_equal_the_formula_and_the_published_code(way: Any, golden: list[list[float]]) -> None:
    for ours, formula, published in zip(twenty(*way), by_hand(*way), golden, strict=True):
        for one, other in zip(ours, formula, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-11, atol=1e-13)
        assert torch.cat([one.flatten() for one in ours]).tolist() == pytest.approx(published, rel=1e-8)


def test_the_first_step_makes_the_average_the_weights_and_a_closure_is_called() -> None:
    model, optimizer = made((0.9, 0.999), 0.0)
    assert torch.equal(optimizer.average_of(model.bias), model.bias)

    def closure() -> float:
        loss = model.bias.sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == pytest.approx(-0.1)
    # Adam's first step is the rate; x = z = y then.
    assert model.bias.tolist() == pytest.approx([0.0, -0.3], abs=1e-7)
    assert optimizer.average_of(model.bias).tolist() == pytest.approx([0.0, -0.3], abs=1e-7)
    assert torch.equal(model.weight, torch.tensor(FIRST)), "it has no gradient"


def test_a_weight_whose_gradient_comes_later_counts_its_own_steps() -> None:
    model, optimizer = made((0.9, 0.999), 0.0)
    for step in range(3):
        model.weight.grad = torch.ones_like(model.weight)
        model.bias.grad = torch.ones_like(model.bias) if step == 2 else None
        optimizer.step()
    assert optimizer.state[model.weight]["step"] == 3 and optimizer.state[model.bias]["step"] == 1
    assert model.bias.tolist() == pytest.approx([0.0, -0.3], abs=1e-7)


# In a training


def student() -> TinyViT:
    torch.manual_seed(1)
    made = TinyViT()
    made.norm = nn.Identity()
    return made


FREE: dict[str, Any] = {
    "optimizer": Optimizer(SCHEDULE_FREE, lr=1e-2, weight_decay=0.05),
    "schedule": Schedule(EPOCHS, warmup_epochs=1, min_lr=1e-3, warmup_factor=0.5),
    "ema": None,
    "every": 1e9,
}


def test_the_rate_rises_by_steps_and_stays_whatever_the_schedule_says() -> None:
    changes = {name: value for name, value in FREE.items() if name != "every"}
    plan = make_plan(**changes)
    found = [plan.rate(step) for step in range(EPOCHS * STEPS)]
    assert found == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, *[1e-2] * (EPOCHS * STEPS - 4)])
    without = make_plan(**changes | {"schedule": Schedule(EPOCHS)})
    assert without.rate(0) == without.rate(EPOCHS * STEPS - 1) == 1e-2


@pytest.mark.parametrize("changes", [{}, {"sam": Sam(0.05)}], ids=["alone", "with-sam"])
def test_a_resumed_training_ends_equal_to_the_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, rows = train(tmp_path / "whole", task=Supervised(student()), **FREE | changes)
    with pytest.raises(Paused):
        train(tmp_path / "parts", task=Supervised(student()), stop=StopAfter(7), **FREE | changes)
    parts, again = train(tmp_path / "parts", task=Supervised(student()), **FREE | changes)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert [(row.train, row.scores, row.lr) for row in rows] == [(row.train, row.scores, row.lr) for row in again]
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_more_epochs_continue_it_to_the_bit_as_if_they_had_been_planned(tmp_path: Path) -> None:
    """The average too; there is no second warm-up."""

    def trained(root: Path, length: Schedule, before: int = 0, **more: Any) -> dict[str, Tensor]:
        plan = make_plan(optimizer=FREE["optimizer"], schedule=length, ema=None, epochs_before=before)
        task = Supervised(student())
        fit(task, make_loader(make_images()), plan, checkpointer=Checkpointer(root, every_seconds=1e9, **more))
        return task.state_dict()

    four = trained(tmp_path / "four", Schedule(4, warmup_epochs=1))
    two = trained(tmp_path / "two", Schedule(2, warmup_epochs=1))
    more = trained(tmp_path / "more", Schedule(2), 2, start_from=tmp_path / "two")
    assert all(torch.equal(value, four[name]) for name, value in more.items())
    assert not all(torch.equal(value, four[name]) for name, value in two.items())


def test_evaluation_the_best_epoch_and_the_result_are_the_average_and_a_checkpoint_continues_from_y(
    tmp_path: Path,
) -> None:
    task, seen = Supervised(student()), []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training and model is not task.student
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"val": float(len(seen))}

    changes = {name: value for name, value in FREE.items() if name != "every"}
    checkpointer = Checkpointer(tmp_path, every_seconds=1e9, select_on="val")
    fit(task, make_loader(make_images()), make_plan(**changes), evaluate=evaluate, checkpointer=checkpointer)
    best, newest = checkpointer.load_best()[0], load_newest(tmp_path)
    assert newest is not None and len(seen) == EPOCHS
    y, state = newest.tensors["student"], newest.tensors["optimizer"]
    for name, x in task.student.state_dict().items():
        assert torch.equal(x, seen[-1][name]) and torch.equal(x, best[name])
        assert not torch.equal(x, y[name])
        torch.testing.assert_close(y[name], 0.9 * x + 0.1 * state[f"student.{name}|z"], rtol=1e-5, atol=1e-6)
    assert {key.rpartition("|")[2] for key in state} == {
        "z", "exp_avg_sq", "step", "largest_lr", "sum_of_squared_lr"
    }  # fmt: skip


def test_buffers_are_those_of_the_student() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    model = Counting()
    average = AveragedStudent(
        model, ScheduleFreeAdamW([{"params": [model.weight]}], lr=0.1, betas=(0.9, 0.9), eps=1e-8)
    )
    model.seen += 3
    assert average.model().seen.item() == 3 and not average.model().weight.requires_grad


def test_a_step_that_is_not_finite_is_skipped() -> None:
    task = Supervised(student())
    before = {name: value.clone() for name, value in task.state_dict().items()}
    changes = {name: value for name, value in FREE.items() if name != "every"}
    engine = Engine(task, make_plan(**changes), names=lambda index: [])
    task.student.head.register_forward_hook(lambda module, given, logits: logits * torch.inf)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1: classification not finite"):
        engine.step(next(iter(make_loader(make_images()).epoch(0))), 0, 0, RunningMean())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


# What is refused


def test_a_student_with_batch_norm_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"is 'schedule-free-adamw', and a CifarResNet has BatchNorm, .* use adamw with"
    ):
        make_optimizer(Supervised(CifarResNet(8, 3)), FREE["optimizer"])


@pytest.mark.parametrize("average", [{"ema": Ema(0.9)}, {"ema": None, "lookahead": Lookahead()}], ids=["ema", "slow"])
def test_a_second_average_is_refused(average: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"^(ema|lookahead) is given, and schedule-free-adamw averages .*; expected one"
    ):
        make_plan(optimizer=FREE["optimizer"], **average)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ema={}"], r"ema: must be null with optimizer\.name schedule-free-adamw, which averages the weights itself"),
        (["lookahead={}"], r"lookahead: must be null with optimizer\.name schedule-free-adamw"),
        (["optimizer.betas=[0, 0.99]"], r"optimizer\.betas\.0: must be > 0 with schedule-free-adamw; usual is 0\.9"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(settings: list[str], message: str) -> None:
    recipe = load_recipe("supervised")
    with pytest.raises(RecipeError, match=message):
        apply_overrides(recipe, [f"optimizer.name={SCHEDULE_FREE}", "ema=null", *settings])
    changed = apply_overrides(recipe, [f"optimizer.name={SCHEDULE_FREE}", "ema=null"])
    assert changed.optimizer.name == SCHEDULE_FREE and changed.ema is None
