"""Muon by stacks: timm's numbers and timm's state."""

import copy

import pytest
import torch
from timm.optim.muon import _COEFFICIENTS, Muon, zeropower_via_newtonschulz
from torch import nn

from lgkd.training import muon as muon_module
from lgkd.training.muon import StackedMuon, orthogonalised
from lgkd.training.state import optimizer_tensors, restore_optimizer


class Layers(nn.Module):
    """Two matrices alike, one that is their transpose, a square and a longer one, a convolution; and two vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        shapes = [(6, 10), (6, 10), (10, 6), (6, 6), (14, 6), (5, 3, 2, 2)]
        self.matrices = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.rest = nn.ParameterList(torch.randn(4) for _ in range(2))


def settings(model: Layers, **options: object) -> tuple[list[dict[str, object]], dict[str, object]]:
    groups = [
        {"params": [*model.matrices], "use_fallback": False, "weight_decay": 0.05},
        {"params": [*model.rest], "use_fallback": True, "weight_decay": 0.0},
    ]
    return groups, {"lr": 0.02, "momentum": 0.9, "nesterov": True} | options


def walk(model: Layers, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()


@pytest.fixture
def _stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stack on the CPU as on a device, in single precision: bfloat16 rounds sums of another order to other numbers."""
    monkeypatch.setattr(muon_module, "_can_be_stacked", lambda group: not group["use_fallback"])
    real = orthogonalised
    monkeypatch.setattr(muon_module, "orthogonalised", lambda *given: real(*given, dtype=torch.float32))
    monkeypatch.setattr(
        "timm.optim.muon.zeropower_via_newtonschulz",
        lambda *given, **options: zeropower_via_newtonschulz(*given, **options | {"dtype": torch.float32}),
    )


@pytest.mark.usefixtures("_stacked")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("ns_steps", [5, 3, 7])
def test_steps_are_timms(nesterov: bool, ns_steps: int) -> None:
    ours, theirs = Layers(), Layers()
    groups, options = settings(ours, nesterov=nesterov, ns_steps=ns_steps)
    stacked = StackedMuon(groups, **options)
    groups, options = settings(theirs, nesterov=nesterov, ns_steps=ns_steps)
    usual = Muon(groups, **options)  # type: ignore[arg-type]
    for optimizer, model in ((stacked, ours), (usual, theirs)):
        walk(model, optimizer, range(4))
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)
    saved, of_timm = optimizer_tensors(ours, stacked), optimizer_tensors(theirs, usual)
    assert saved.keys() == of_timm.keys()
    for name, value in saved.items():
        torch.testing.assert_close(value, of_timm[name], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("_stacked")
def test_a_state_that_timm_saved_is_resumed() -> None:
    whole, parts = Layers(), Layers()
    groups, options = settings(whole)
    walk(whole, StackedMuon(groups, **options), range(5))
    groups, options = settings(parts)
    first = Muon(groups, **options)  # type: ignore[arg-type]
    walk(parts, first, range(3))
    saved = copy.deepcopy(optimizer_tensors(parts, first))
    groups, options = settings(parts)
    second = StackedMuon(groups, **options)
    restore_optimizer(parts, second, saved)
    walk(parts, second, range(3, 5))
    for found, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)


def test_iterations_in_bfloat16_are_timms_up_to_its_rounding() -> None:
    stack = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    found = orthogonalised([stack], _COEFFICIENTS["quintic"], 1e-7)[0].float()
    for ours, matrix in zip(found, stack, strict=True):
        theirs = zeropower_via_newtonschulz(matrix, 5, _COEFFICIENTS["quintic"]).float()  # type: ignore[arg-type]
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        # All singular values are near 1.
        assert torch.linalg.svdvals(ours).min() > 0.6 and torch.linalg.svdvals(ours).max() < 1.3


def test_on_a_cpu_the_step_is_timms_to_the_bit() -> None:
    ours, theirs = Layers(), Layers()
    groups, options = settings(ours)
    walk(ours, StackedMuon(groups, **options), range(3))
    groups, options = settings(theirs)
    walk(theirs, Muon(groups, **options), range(3))  # type: ignore[arg-type]
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
