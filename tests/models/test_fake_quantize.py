"""Quantisation-aware training: rounding by loops, gradients, evaluation, copies, and a run that is resumed."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lgkd
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.errors import ModelError, TapError
from lgkd.models.factory import create_student
from lgkd.models.fake_quantize import fake_quantize, restore, rounded_input, rounded_weight
from tests.support.losses import normal
from tests.support.small import DISTILL, World, pause_after


def test_weights_are_rounded_by_channel_as_in_a_loop() -> None:
    weight = normal(4, 3, 2, 2, seed=1).float()
    weight[2] = 0
    rows = []
    for channel in weight:
        scale = max(abs(value) for value in channel.flatten().tolist()) / 127 or 1.0
        rows.append([round(value / scale) * scale for value in channel.flatten().tolist()])
    torch.testing.assert_close(rounded_weight(weight).flatten(1), torch.tensor(rows))
    assert all(len(row.unique()) <= 255 for row in rounded_weight(normal(2, 5000, seed=2).float()))


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_inputs_are_rounded_to_256_levels_as_in_a_loop(shift: float) -> None:
    values = normal(7, 11, seed=3).float() + shift
    low, high = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    scale = (high - low) / 255
    zero = -128 - round(low / scale)
    wanted = [(min(max(round(value / scale) + zero, -128), 127) - zero) * scale for value in values.flatten().tolist()]
    torch.testing.assert_close(rounded_input(values).flatten(), torch.tensor(wanted))
    assert (rounded_input(values) - values).abs().max() <= scale * 1.001
    assert torch.equal(rounded_input(torch.zeros(3)), torch.zeros(3))
    mixed = torch.cat([torch.zeros(1), values.flatten()])
    assert rounded_input(mixed)[0] == 0


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, padding=1, groups=2)], ids=["linear", "conv"])
def test_a_layer_computes_with_rounded_values_in_training_alone(layer: nn.Module) -> None:
    model = nn.Sequential(copy.deepcopy(layer))
    plain = copy.deepcopy(layer)
    values = normal(5, 6, *((8, 8) if isinstance(layer, nn.Conv2d) else ()), seed=4).float()
    fake_quantize(model)
    assert model.state_dict().keys() == nn.Sequential(plain).state_dict().keys()
    inner = model[0]
    assert isinstance(inner, type(layer))
    with torch.no_grad():
        plain.weight.copy_(rounded_weight(layer.weight))  # type: ignore[operator, arg-type]
    ours, theirs = values.clone().requires_grad_(), rounded_input(values).detach().requires_grad_()
    found, wanted = model(ours), plain(theirs)
    torch.testing.assert_close(found, wanted)
    for output in (found, wanted):
        output.square().sum().backward()
    inside = rounded_input(values).ne(values.amax()) & rounded_input(values).ne(values.amin())
    torch.testing.assert_close(ours.grad[inside], theirs.grad[inside])  # type: ignore[index]
    torch.testing.assert_close(inner.weight.grad, plain.weight.grad)
    model.eval()
    torch.testing.assert_close(model(values), layer(values), rtol=0, atol=0)


def test_copies_round_their_own_weights_and_restore_undoes_it() -> None:
    student = create_student("vit_96", num_classes=3, image_size=16, depth=2, embed_dim=12, num_heads=2)
    kinds = [type(module) for module in student.modules()]
    fake_quantize(student)
    other = copy.deepcopy(student)
    images = normal(2, 3, 16, 16, seed=5).float()
    before = student(images)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(2)
    torch.testing.assert_close(student(images), before, rtol=0, atol=0)
    assert not torch.allclose(other(images), before)
    # Four linear layers a block, the patches and the head.
    changed = sum(type(module).__name__.startswith("Rounding") for module in student.modules())
    assert changed == 2 * 4 + 2
    restore(student)
    assert [type(module) for module in student.modules()] == kinds


def test_compiled_it_is_the_same() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    fake_quantize(model)
    values = normal(5, 6, seed=6).float()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(values), model(values))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_formats_keep_theirs(dtype: torch.dtype) -> None:
    values: Tensor = normal(5, 6, seed=7).to(dtype)
    assert rounded_input(values).dtype == rounded_weight(values).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = nn.Sequential(nn.Linear(6, 4))
        fake_quantize(model)
        assert model(values.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_stay_so(fault: float) -> None:
    values = normal(4, 6, seed=8).float()
    values[1, 2] = fault
    for rounded in (rounded_input(values), rounded_weight(values)):
        assert not rounded[1, 2].isfinite()
    model = nn.Sequential(nn.Linear(6, 4))
    fake_quantize(model)
    assert not model(values).sum().isfinite()


def test_a_model_of_other_layers_is_refused() -> None:
    for model in (nn.Sequential(nn.GELU()), nn.Linear(2, 2)):
        with pytest.raises(
            ModelError, match=r"has no linear layer or convolution of torch's own classes, whose values"
        ):
            fake_quantize(model)


@pytest.mark.usefixtures("here")
def test_a_module_of_ones_own_is_restored_after_a_training_and_after_an_error(world: World) -> None:
    student = create_student(
        "deit_tiny", num_classes=3, image_size=16, patch_size=4, depth=3, embed_dim=32, num_heads=2
    )
    kinds = [type(module) for module in student.modules()]
    teacher = lgkd.Teacher(create_student("vit_96", num_classes=3, image_size=16, depth=3), image_size=16)
    options = {"overrides": ["fake_quantize=int8", "view.image_size=16"], "epochs": 1, "batch_size": 8, "device": "cpu"}
    with pytest.raises(TapError):
        lgkd.distill(student, teacher, world.pictures, taps=["blocks.0", "nope", "blocks.2"], out="bad", **options)
    assert [type(module) for module in student.modules()] == kinds
    lgkd.distill(student, teacher, world.pictures, out="good", **options)
    assert [type(module) for module in student.modules()] == kinds


@pytest.mark.usefixtures("here")
def test_a_guided_run_trains_with_it_and_is_resumed_to_the_bit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*DISTILL, "--dataset", str(world.pictures), "--set", "fake_quantize=int8", "--out"]
    assert run([*words, "whole"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*words, "paused"]) == 75
    assert run(["resume", "paused", "--quiet"]) == 0
    ours, whole, plain = (
        load_file(Path(folder) / "student.safetensors") for folder in ("paused", "whole", world.guided_run)
    )
    assert all(torch.equal(value, whole[name]) for name, value in ours.items())
    assert whole.keys() == plain.keys() and any(not torch.equal(value, plain[name]) for name, value in whole.items())
    assert load_recipe("whole/recipe.yaml").fake_quantize == "int8"
    assert run(["evaluate", "whole"]) == 0
