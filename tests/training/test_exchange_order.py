"""The order of exchanges among processes, with the other process made up."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lgkd.distillation.tasks import Supervised
from lgkd.errors import ModelError
from lgkd.training.distributed_step import sum_over_processes
from lgkd.training.exchange_order import ExchangeOrder


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor | None], list[Tensor]]:
    """Stands in for another process: it sends what was set, or the same; returns what was sent so far."""
    sent: list[Tensor] = []
    theirs: list[Tensor | None] = [None]

    def all_reduce(values: Tensor, op: object = None, group: object = None) -> None:
        sent.append(values.clone())
        if theirs[0] is not None:
            values.copy_(torch.maximum(values, theirs[0]))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)

    def send(values: Tensor | None) -> list[Tensor]:
        theirs[0] = values
        return sent

    return send


def test_two_batch_norms_of_one_shape_are_told_apart_by_their_names(other) -> None:
    student = nn.ModuleDict({"left": nn.BatchNorm1d(4), "right": nn.BatchNorm1d(4, track_running_stats=False)})
    left, right = student["left"], student["right"]
    order = ExchangeOrder(Supervised(student), None)
    values = torch.zeros(2, 4)
    order.check_norm(values, right.running_mean, right.weight)
    (sent,) = other(None)
    other(sent)
    order.check_norm(values, right.running_mean, right.weight)
    with pytest.raises(
        ModelError, match=r"has come to BatchNorm student\.left of 4 channels, another one to something"
    ):
        order.check_norm(values, left.running_mean, left.weight)
    with pytest.raises(ModelError, match="BatchNorm without a name of 4 channels"):
        order.check_norm(values, None, None)
    with pytest.raises(ModelError, match=r"the end of the forward pass, another one to something else or with other"):
        order.check_backward(torch.zeros(()))


def test_sums_behind_the_loss_are_told_from_those_that_are_thrown_away(other) -> None:
    order = ExchangeOrder(Supervised(nn.Identity()), None)
    weight = torch.ones(3, requires_grad=True)
    sums = [sum_over_processes(weight * number, None, order) for number in (1, 2)]
    order.check_backward(sums[0].sum() + sums[1].sum())
    order.check_backward(sums[1].sum())
    *_, both, second = other(None)
    assert not torch.equal(both, second)
    assert both[0] == -both[1] and second[0] == -second[1]
    other(both)
    order.check_backward(sums[1].sum() * 2 + sums[0].mean())
    with pytest.raises(ModelError, match="Train in one process, or move the BatchNorm ahead of the branches"):
        order.check_backward(sums[0].sum())


def test_a_tensor_that_takes_the_identity_of_a_replaced_one_does_not_take_its_name() -> None:
    student = nn.ModuleDict({"left": nn.BatchNorm1d(4), "right": nn.BatchNorm1d(4)})
    order = ExchangeOrder(Supervised(student), None)
    assert order.name_of(student["left"].running_mean, None) == "student.left"
    former = id(student["left"].running_mean)
    student["left"].running_mean = torch.ones(4)  # as a cast replaces it: the former one may be freed
    others = [torch.zeros(1) for _ in range(1000)]
    assert not any(order.name_of(one, None) for one in others if id(one) == former)
    assert all(order.name_of(one, None) is None for one in others[:10])
    assert order.name_of(student["left"].running_mean, None) == "student.left"
    assert order.name_of(student["right"].running_mean, student["right"].weight) == "student.right"
