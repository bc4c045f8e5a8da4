"""Models of one channel: with the summed kernels of three they compute the same of grey images."""

from typing import Any

import pytest
import torch
from torch import nn

import lgkd
from lgkd.errors import InputError, ModelError
from lgkd.models.factory import create_model
from lgkd.models.forward_checks import check_model
from lgkd.models.initial_weights import start_from_weights
from lgkd.models.patch_size import patch_size
from lgkd.models.timm_interop import timm_call
from lgkd.training.optim import hidden_matrices

SMALL: dict[str, dict[str, Any]] = {
    "resnet8": {},
    "resnet8x4": {},
    "wrn_16_2": {},
    "vgg8": {},
    "mobilenet_v2": {"width": 0.5},
    "shufflenet_v2": {"width": 0.5},
    "densenet_100_12": {},
    "deit_tiny": {"patch_size": 4, "depth": 2},
    "pvt_v2_b0": {},
    "pvt_tiny": {"depths": (1, 1, 1, 1)},
    "cvt_13": {"depths": (1, 1, 1)},
    "vit_96": {"depth": 2},
    "cct_2_3x2": {},
    "timm:resnet18": {},
}
APART = {"fastnet_small": {}, "t2t_vit_7": {"depth": 2}, "sl_vit": {"depth": 2}, "dhvt_tiny": {"depth": 2}}
"""Models whose first layer is not one convolution of the images alone."""


def made(name: str, channels: int, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(channels)
    return create_model(name, num_classes=5, image_size=32, channels=channels, options=options).eval()


@pytest.mark.parametrize("name", SMALL)
def test_summed_kernels_give_the_same_of_grey_images(name: str) -> None:
    one, three = made(name, 1, SMALL[name]), made(name, 3, SMALL[name])
    if name == "deit_tiny":  # whose classifier starts from zeros
        nn.init.normal_(three.head.weight)
    adapted = start_from_weights(one, three.state_dict(), "three.safetensors")
    assert len(adapted.resized) == 1 and adapted.classifier == "kept"
    grey = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        expected = three(grey.expand(-1, 3, -1, -1))
        scale = expected.abs().max()
        torch.testing.assert_close(one(grey) / scale, expected / scale, rtol=1e-4, atol=1e-5)
        back = made(name, 3, SMALL[name])
        start_from_weights(back, one.state_dict(), "one.safetensors")
        torch.testing.assert_close(back(grey.expand(-1, 3, -1, -1)) / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", APART)
def test_other_first_layers_take_one_channel_and_no_weights_of_three(name: str) -> None:
    one = made(name, 1, APART[name])
    assert one(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    with pytest.raises(InputError, match=r"three\.safetensors"):
        start_from_weights(one, made(name, 3, APART[name]).state_dict(), "three.safetensors")


def test_the_stem_of_fastnet_whitens_patches_of_one_channel() -> None:
    model = made("fastnet_small", 1, {})
    images = torch.nn.functional.avg_pool2d(torch.randn(400, 1, 34, 34), 3, 1)
    model.lgkd_fit_images(images)
    patches = torch.nn.functional.unfold(images.double(), 3).transpose(0, 1).flatten(1)
    filters = model.stem.conv.weight[:9].flatten(1).double()
    moments = filters @ (patches @ patches.T / patches.shape[1]) @ filters.T
    torch.testing.assert_close(moments, torch.eye(9, dtype=torch.float64), atol=0.12, rtol=0)
    assert torch.equal(model.stem.conv.weight[9:], -model.stem.conv.weight[:9])
    with pytest.raises(ModelError, match=r"hold no patch of 3 x 3 pixels; expected \(B,1,H,W\)"):
        model.stem.whiten(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["deit_tiny", "cct_2_3x2", "pvt_v2_b0", "vit_96"])
def test_muon_has_the_same_matrices_as_with_three_channels(name: str) -> None:
    def names(model: nn.Module) -> set[str]:
        chosen = hidden_matrices(model)
        return {key for key, weight in model.named_parameters() if id(weight) in chosen}

    assert names(made(name, 1, SMALL[name])) == names(made(name, 3, SMALL[name])) != set()


def test_patches_and_timms_own_call_of_one_channel() -> None:
    assert patch_size(made("deit_tiny", 1, SMALL["deit_tiny"])) == (4, 4)
    call = timm_call("deit_tiny", {"patch_size": 8, "depth": 1}, num_classes=5, image_size=(32, 64), channels=1)
    assert call is not None and call.arguments["in_chans"] == 1 and call.arguments["img_size"] == (32, 64)
    assert call.make()(torch.randn(1, 1, 32, 64)).shape == (1, 5)


class OfThree(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


def test_other_channels_are_refused_with_the_way() -> None:
    assert lgkd.create_student("vit_96", num_classes=3, in_chans=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    assert lgkd.create_teacher("resnet8", num_classes=3, in_chans=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    with pytest.raises(ModelError, match="vit_96: channels is 2, expected 3, or 1 for grey levels"):
        create_model("vit_96", num_classes=3, channels=2)
    with pytest.raises(ModelError, match=r"mine takes images of 3 channels, expected 1: .* leave out --channels"):
        check_model(OfThree(3), "mine", num_classes=3, image_size=(16, 16), channels=1)


def test_a_teachers_view_has_its_own_channels_by_hand() -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    colours = torch.rand(2, 3, 6, 8)
    one = lgkd.Teacher(create_model("resnet8", num_classes=3, channels=1), image_size=(6, 8), mean=[0.45], std=[0.1])
    assert one.channels == 1
    grey = (colours * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(one.view((colours - mean) / std, mean, std), (grey - 0.45) / 0.1, atol=2e-4, rtol=1e-4)
    three = lgkd.Teacher(create_model("resnet8", num_classes=3), image_size=(6, 8))
    shown = three.view((grey - 0.45) / 0.1, one.mean, one.std)
    torch.testing.assert_close(shown, (grey - three.mean) / three.std, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="the teacher's mean has 3 numbers and its std 1, expected three each, or one"):
        lgkd.Teacher(three.model, image_size=32, std=[0.1])
