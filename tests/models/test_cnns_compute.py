"""What CNN teachers compute, against torchvision and their equations."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet as TorchvisionDenseNet

from lgkd.models.cnn.densenet import DenseNet
from lgkd.models.cnn.mobile import InvertedResidual, MobileNetV2, ShuffleNetV2
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.cnn.vgg import Vgg
from lgkd.models.cnn.wide_resnet import WideResNet
from tests.support.cnns import lively, small

# What they compute


def transplant(source: nn.Module, target: nn.Module) -> None:
    """All parameters and statistics of one module into another that has the same ones in the same order."""
    ours, theirs = source.state_dict(), target.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    target.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))


def test_a_vgg_computes_what_torchvisions_layers_do() -> None:
    ours = small("vgg13")
    layers = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, 512, 512]
    theirs = nn.Sequential(
        torchvision.models.vgg.make_layers(layers, batch_norm=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 5),
    ).eval()
    transplant(ours, theirs)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_a_densenet_computes_what_torchvisions_does() -> None:
    torch.manual_seed(2)
    ours = lively(DenseNet(16, 6, 5))
    theirs = TorchvisionDenseNet(6, (2, 2, 2), 12, bn_size=4, num_classes=5).eval()
    theirs.features.conv0 = nn.Conv2d(3, 12, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        delattr(theirs.features, name)
    transplant(ours, theirs)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / (var + 1e-5).sqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


@pytest.mark.parametrize("name", ["wrn_10_2", "wrn_16_1"])
def test_a_wide_resnet_computes_what_its_equations_say(name: str) -> None:
    model = small(name)
    state = {key: value.double() for key, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    x = F.conv2d(images.double(), state["conv.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(1 if name == "wrn_10_2" else 2):
            at = f"stage{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            active = norm(x, state, f"{at}.bn1").clamp(min=0)
            inner = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(norm(inner, state, f"{at}.bn2").clamp(min=0), state[f"{at}.conv2.weight"], padding=1)
            key = f"{at}.shortcut.weight"
            assert (key in state) == (block == 0 and (stage > 1 or name == "wrn_10_2"))
            x = inner + (F.conv2d(active, state[key], stride=stride) if key in state else x)
    pooled = norm(x, state, "bn").clamp(min=0).mean((2, 3))
    expected = pooled @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(images), expected.float(), rtol=1e-4, atol=1e-5)


def test_a_resnet_x4_is_a_cifar_resnet_of_other_widths() -> None:
    ours = small("resnet8x4")
    plain = CifarResNet(8, 5)
    assert set(plain.state_dict()) < set(ours.state_dict())
    assert set(ours.state_dict()) - set(plain.state_dict()) == {
        f"stage1.0.shortcut.{rest}"
        for rest in (
            "0.weight",
            *(f"1.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
    }


def test_the_halves_of_a_shuffle_block_are_interleaved() -> None:
    model = small("shufflenet_v2_0.5")
    block = model.stage1[1]
    x = torch.randn(2, 48, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 0::2], x[:, :24])
    assert torch.equal(out[:, 1::2], block.convolved(x[:, 24:]))


def test_an_inverted_residual_adds_its_input_only_where_the_shape_stays() -> None:
    for stride, out, adds in ((1, 8, True), (2, 8, False), (1, 16, False)):
        block = lively(InvertedResidual(8, out, stride, 6))
        for parameter in block.project.parameters():
            nn.init.zeros_(parameter)
        block.project[1].running_mean.zero_()
        x = torch.randn(2, 8, 6, 6)
        assert torch.equal(block(x), x if adds else torch.zeros(2, out, 6 // stride, 6 // stride))


def test_convolutions_start_from_hes_fan_out() -> None:
    torch.manual_seed(0)
    for model in (WideResNet(10, 4, 5), Vgg(8, 5), DenseNet(10, 24, 5), ShuffleNetV2(5), MobileNetV2(5)):
        widest = max((m for m in model.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
        fan_out = widest.out_channels * math.prod(widest.kernel_size) / widest.groups
        assert widest.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
