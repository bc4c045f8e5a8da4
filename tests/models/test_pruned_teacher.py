"""A teacher reduced to what is read of it computes the same, with fewer layers, and stays as it was itself."""

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.taps import trace_shapes
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import create_teacher
from lgkd.models.pruned_teacher import trim
from lgkd.models.teacher import Teacher


def lively(model: nn.Module) -> nn.Module:
    """Statistics and scales as a trained network has them, not the zeros and ones of a new one."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval().requires_grad_(False)


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


@pytest.mark.parametrize("depth", [8, 56])
def test_folding_batch_norm_changes_no_map_by_more_than_rounding(depth: int) -> None:
    model = lively(CifarResNet(depth, 10))
    taps, images = default_taps(model), torch.randn(4, 3, 32, 32)
    made = trim(model, taps, logits=True, images=images)
    assert made is not None and made.folded == depth + 1, "two norms a block, one behind the stem, two in shortcuts"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    logits, maps = made(images)
    expected, outputs = trace_shapes(model, taps, images)
    assert logits is not None
    for ours, theirs in zip([logits, *maps], [expected, *outputs], strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_layers_behind_the_last_one_that_is_read_are_left_out() -> None:
    model = lively(create_teacher("timm:resnet18", num_classes=7, image_size=64))
    images = torch.randn(2, 3, 64, 64)
    maps_only = trim(model, ["layer1", "layer2", "layer3"], logits=False, images=images)
    everything = trim(model, ["layer1", "layer2", "layer3"], logits=True, images=images)
    assert maps_only is not None and everything is not None
    assert convolutions(everything) == convolutions(model) == 20 and convolutions(maps_only) == 15
    assert maps_only(images)[0] is None
    for ours, theirs in zip(maps_only(images)[1], everything(images)[1], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:mobilenetv2_050", "timm:regnety_002", "timm:convnext_atto", "timm:densenet121"])
def test_models_of_other_makers_are_reduced_too(name: str) -> None:
    model = lively(create_teacher(name, num_classes=7, image_size=64))
    images, taps = torch.randn(2, 3, 64, 64), default_taps(model)
    made = trim(model, taps, logits=False, images=images)
    assert made is not None
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())
    for ours, theirs in zip(made(images)[1], trace_shapes(model, taps, images)[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_goes_into_a_layer_can_be_read() -> None:
    model = lively(CifarResNet(8, 10))
    images = torch.randn(3, 3, 32, 32)
    made = trim(model, ["stage2"], ["fc"], logits=False, images=images)
    assert made is not None
    _, (_, embedding) = made(images)
    torch.testing.assert_close(model.fc(embedding), model(images), rtol=1e-4, atol=1e-5)


def test_the_model_itself_stays_as_it_was() -> None:
    model = lively(CifarResNet(8, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = trim(model, ["stage1"], logits=True, images=torch.randn(2, 3, 32, 32))
    assert made is not None
    for parameter in made.parameters():
        parameter.add_(1.0)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())


def test_statistics_of_the_batch_are_not_folded() -> None:
    teacher = Teacher(lively(CifarResNet(8, 10)), image_size=32, batch_norm="batch")
    images = torch.randn(6, 3, 32, 32)
    made = trim(teacher.model, ["stage3"], logits=False, images=images)
    assert made is not None and made.folded == 0
    _, (ours,) = made(images[:4])
    _, theirs = made(images)
    assert not torch.allclose(ours, theirs[0][:4]), "the batch counts"


class Shared(nn.Module):
    """One convolution, two norms: folding one would spoil the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.conv(self.first(self.conv(images))))
        return self.head(maps.mean((2, 3)))


def test_a_convolution_that_serves_two_norms_is_left_alone() -> None:
    model = lively(Shared())
    images = torch.randn(2, 3, 8, 8)
    made = trim(model, ["second"], logits=True, images=images)
    assert made is not None and made.folded == 0
    torch.testing.assert_close(made(images)[0], model(images))


def test_a_tapped_convolution_keeps_its_own_output() -> None:
    model = lively(CifarResNet(8, 10))
    images = torch.randn(2, 3, 32, 32)
    made = trim(model, ["conv", "stage1"], logits=False, images=images)
    assert made is not None and made.folded == 2, "those of the block, not the one behind the tapped convolution"
    for ours, theirs in zip(made(images)[1], trace_shapes(model, ["conv", "stage1"], images)[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_tap_that_a_layer_behind_it_writes_over_is_read_from_the_whole_model() -> None:
    model = lively(CifarResNet(8, 10))  # its ReLU works in place, on what the norm put out
    assert trim(model, ["bn"], logits=False, images=torch.randn(2, 3, 32, 32)) is None


class Moody(CifarResNet):
    def forward(self, images_B3HW: Tensor) -> Tensor:
        return super().forward(images_B3HW if images_B3HW.sum() > 0 else -images_B3HW)


def test_a_forward_pass_that_looks_at_values_cannot_be_followed() -> None:
    assert trim(lively(Moody(8, 10)), ["stage1"], logits=False, images=torch.randn(2, 3, 32, 32)) is None


def test_a_model_to_which_somebody_listens_is_run_whole() -> None:
    model = lively(CifarResNet(8, 10))
    handle = model.stage2.register_forward_hook(lambda _module, _args, output: 2 * output)
    assert trim(model, ["stage1"], logits=False, images=torch.randn(2, 3, 32, 32)) is None
    handle.remove()
    assert trim(model, ["stage1"], logits=False, images=torch.randn(2, 3, 32, 32)) is not None
