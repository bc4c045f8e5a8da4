"""Models: parameters and maps of the paper, making them from names, and what is said when that fails."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lgkd.distillation.taps import trace_shapes
from lgkd.errors import ModelError, TapError
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.default_taps import block_names, default_taps, spread, stage_names
from lgkd.models.factory import (
    create_model,
    create_student,
    create_teacher,
    default_image_size,
    import_factory,
    pair,
)
from lgkd.models.forward_checks import check_model
from lgkd.models.registry import MODELS, canonical, find, names


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
def test_every_cifar_resnet_has_the_parameters_of_its_catalogue_and_of_the_formula(depth: int) -> None:
    n = (depth - 2) // 6
    # A further block of each stage: two 3x3 convolutions and two norms of 16, 32 and 64 channels.
    per_n = sum(2 * 9 * width**2 + 4 * width for width in (16, 32, 64))
    stem, head = 27 * 16 + 32, 64 * 100 + 100
    narrower = sum(9 * wide * (wide - wide // 2) for wide in (32, 64))  # first convolutions of stages 2 and 3
    shortcuts = sum(wide // 2 * wide + 2 * wide for wide in (32, 64))
    by_hand = stem + per_n * n - narrower + shortcuts + head
    assert count(create_teacher(f"resnet{depth}", num_classes=100)) == by_hand == MODELS[f"resnet{depth}"].parameters


def test_the_catalogue_lists_the_resnets_that_are_tested_here() -> None:
    assert names("teacher")[:6] == [f"resnet{depth}" for depth in (8, 20, 32, 44, 56, 110)]
    assert set(names()) == set(MODELS) == {*names("teacher"), *names("student")}


def test_resnet56_puts_out_the_maps_of_the_paper(golden: Callable[[str], Any]) -> None:
    stated = golden("models")["resnet56"]
    model = create_teacher("resnet56", num_classes=100)
    assert count(model) == stated["parameters"]
    _, outputs = trace_shapes(model, list(stated["taps"]), torch.zeros(1, 3, 32, 32))
    assert [list(output.shape[1:]) for output in outputs] == list(stated["taps"].values())
    assert default_taps(model) == list(stated["taps"])


PAPER = ["deit_tiny", "pvt_v2_b0", "pit_ti", "convit_tiny", "t2t_vit_7", "t2t_vit_14", "pvt_tiny", "cvt_13"]


@pytest.mark.parametrize("name", PAPER)
def test_students_have_the_parameters_and_default_taps_of_the_paper(name: str, golden: Callable[[str], Any]) -> None:
    stated = golden("models")["students"][name]
    model = create_student(name, num_classes=100)
    assert count(model) == stated["parameters"] == MODELS[name].parameters
    assert default_image_size(name) == stated["image_size"]
    assert len(block_names(model)) == stated["blocks"]
    assert default_taps(model) == list(stated["taps"])


def test_stages_of_a_resnet_are_after_the_last_relu() -> None:
    _, outputs = trace_shapes(CifarResNet(8, 2), ["stage1", "stage2", "stage3"], torch.randn(2, 3, 32, 32))
    assert all(output.min() == 0 for output in outputs)


@pytest.mark.parametrize("depth", [-4, 0, 2, 9, 18, 57])
def test_a_depth_that_is_no_resnet_is_refused(depth: int) -> None:
    with pytest.raises(ModelError, match=rf"the depth of a CIFAR ResNet is {depth}, expected 6n\+2: 8, 14"):
        CifarResNet(depth, 10)


def test_deit_starts_from_a_head_of_zeros() -> None:
    model = create_student("deit_tiny", num_classes=3, image_size=32, patch_size=8, depth=1)
    assert torch.equal(model(torch.randn(2, 3, 32, 32)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("deit_tiny", 32, {"patch_size": 4, "depth": 1}),
        ("deit_tiny", (32, 48), {"patch_size": 8, "depth": 1}),
        ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
        ("pvt_v2_b0", (64, 96), {"depths": (1, 1, 1, 1)}),
        ("pit_ti", 64, {"depth": (1, 1, 1)}),
        ("convit_tiny", 32, {"patch_size": 8, "depth": 2, "local_up_to_layer": 1}),
        ("resnet8", 16, {}),
        ("timm:resnet18", 64, {}),
        ("torchvision.models:squeezenet1_1", 64, {}),
    ],
)
def test_models_are_made_for_the_size_of_the_images(
    name: str, size: int | tuple[int, int], options: dict[str, Any]
) -> None:
    model = create_student(name, num_classes=7, image_size=size, **options)
    assert model.training, "a new model is one to train"
    assert model(torch.zeros(2, 3, *pair(size))).shape == (2, 7)


def test_a_vit_for_small_images_has_a_token_for_each_patch() -> None:
    model = create_student("deit_tiny", num_classes=2, image_size=32, patch_size=4, depth=1)
    assert model.pos_embed.shape == (1, 8 * 8 + 1, 192)


def test_sizes_that_nobody_stated_are_the_models_own() -> None:
    assert [default_image_size(name) for name in ("resnet56", "pvtv2", "timm:inception_v3", "my.own:model")] == [
        32,
        224,
        299,
        224,
    ]


def test_the_same_seed_makes_the_same_model() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_student("pit_ti", num_classes=2, image_size=64, depth=(1, 1, 1)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_options_reach_the_constructor() -> None:
    model = create_student("deit_tiny", num_classes=2, image_size=32, patch_size=8, depth=2, drop_path_rate=0.3)
    assert len(model.blocks) == 2
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet57", {}, r"no model is called 'resnet57'; did you mean 'resnet56'"),
        ("deit_tyni", {}, r"did you mean 'deit_tiny'.* Any timm classifier is `timm:NAME`, a model of your own"),
        ("timm:resnet19", {}, r"timm has no model 'resnet19'; did you mean 'resnet1"),
        (
            "timm:deit_tinyy",
            {},
            r"timm has no model 'deit_tinyy'; did you mean 'deit_tiny_patch16_224' or 'deit_tiny_d",
        ),
        ("deit_tiny", {"patchsize": 4}, r"^deit_tiny has no option 'patchsize'; did you mean 'patch_size'"),
        ("timm:resnet18", {"stemwidth": 4}, r"^timm:resnet18 has no option 'stemwidth'; did you mean 'stem_width'"),
        ("deit_tiny", {"depth": "deep"}, r"^deit_tiny cannot be made with depth=deep: "),
        ("resnet8", {"width": 4}, r"resnet8 has no option 'width'; known: harmonic"),
        ("deit_tiny", {"pretrained": True}, r"pretrained is not an option; classes come from the data set"),
        ("deit_tiny", {"img_size": 32}, r"img_size is not an option"),
        ("resnet8", {"num_classes": 0}, r"resnet8: num_classes is 0, expected at least 1"),
        ("resnet8", {"image_size": 0}, r"resnet8: the image size is 0 x 0 pixels"),
        ("resnet8", {"image_size": (32, -1)}, r"the image size is 32 x -1 pixels"),
        ("convit_tiny", {"image_size": (32, 48), "patch_size": 8, "depth": 1}, r"convit_tiny cannot .* 32 x 48 pixels"),
        (":factory", {}, r":factory: the module '' cannot be imported"),
        ("no.such.module:factory", {}, r"'no.such.module' cannot be imported \(.*No module named 'no'\)"),
        ("math:factory", {}, r"math has no factory 'factory'; "),
        ("math:pi", {}, r"math has no factory 'pi'; "),
        ("collections:OrderedDict", {}, r"collections:OrderedDict returned a OrderedDict, expected a torch.nn.Module"),
        ("collections:OrderedDict", {"width": 4}, r"collections:OrderedDict has no option 'width'; there are none"),
    ],
)
def test_models_that_cannot_be_made_say_why(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        create_student(name, **{"num_classes": 4, **arguments})
    assert "\n" not in str(error.value)


def test_aliases_and_foreign_names() -> None:
    assert canonical("pvtv2") == "pvt_v2_b0" and find("pvtv2") is MODELS["pvt_v2_b0"]
    assert canonical("timm:resnet18") == "timm:resnet18" and find("timm:resnet18") is None
    assert find("my.models:Net") is None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder for files of one's own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "mine_for_tests.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, image_size, width=4):\n"
        "        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(width, num_classes))\n"
        "        self.image_size = image_size\n"
        "def plain(): return Net(4, 8)\n"
        "def anything(**options): return Net(**options)\n"
        "def passes_on(num_classes, image_size, **options): return nn.Conv2d(3, num_classes, 3, **options)\n"
        "def wrong_width(num_classes): return Net(num_classes + 1, 8)\n"
        "def maps(num_classes): return nn.Conv2d(3, num_classes, 3)\n"
        "def pair(num_classes): return Pair()\n"
        "class Pair(nn.Linear):\n"
        "    def __init__(self): super().__init__(1, 1)\n"
        "    def forward(self, images): return images, images\n"
        "def needs_more(num_classes, secret): return Net(num_classes, 8)\n"
        "def breaks(num_classes): return nn.Linear(num_classes, undefined)\n",
        encoding="utf-8",
    )
    (tmp_path / "broken_for_tests.py").write_text("def oops(:\n", encoding="utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.endswith("_for_tests"):
            del sys.modules[name]


def test_a_factory_of_ones_own_is_found_in_the_working_folder(here: Path) -> None:
    model = create_student("mine_for_tests:Net", num_classes=4, image_size=8, width=6)
    assert (model[0].out_channels, model[3].out_features, model.image_size) == (6, 4, 8)
    wide = create_student("mine_for_tests:Net", num_classes=4, image_size=(8, 12))
    assert wide.image_size == (8, 12)


def test_a_factory_is_offered_only_what_it_takes(here: Path) -> None:
    assert create_student("mine_for_tests:plain", num_classes=4, image_size=8)[3].out_features == 4
    model = create_student("mine_for_tests:anything", num_classes=4, image_size=8, width=9)
    assert model[0].out_channels == 9


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("mine_for_tests:Net", {"widht": 3}, r"mine_for_tests:Net has no option 'widht'; did you mean 'width'\?"),
        (
            "mine_for_tests:anything",
            {"widht": 3},
            r"^mine_for_tests:anything has no option 'widht'; did you mean 'width'",
        ),
        ("mine_for_tests:passes_on", {"kernal": 3}, r"cannot be made with .*kernal=3: TypeError: Conv2d.* 'kernal'"),
        ("mine_for_tests:net", {}, r"mine_for_tests has no factory 'net'; did you mean 'Net'"),
        ("mine_for_tests:", {}, r"mine_for_tests has no factory ''"),
        ("mine_for_tests:wrong_width", {}, r"returns logits for 5 classes, expected 4"),
        ("mine_for_tests:maps", {}, r"returns \(2, 4, 6, 6\) for two images, expected logits of shape \(2, classes\)"),
        ("mine_for_tests:pair", {}, r"returns tuple \(2 x 3 x 8 x 8, 2 x 3 x 8 x 8\); expected logits \(B, classes\)"),
        ("mine_for_tests:needs_more", {}, r"cannot be made with num_classes=4: TypeError: .*'secret'"),
        ("mine_for_tests:breaks", {}, r"cannot be made with num_classes=4: NameError: name 'undefined'"),
        ("broken_for_tests:oops", {}, r"'broken_for_tests' cannot be imported \(SyntaxError: invalid syntax"),
    ],
)
def test_a_factory_that_does_not_fit_says_why(here: Path, factory: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_student(factory, num_classes=4, image_size=8, **options)


def test_import_factory_returns_the_callable_itself(here: Path) -> None:
    assert import_factory("mine_for_tests:plain").__name__ == "plain"


def test_images_that_a_model_cannot_take_are_named_with_a_way_out(conv_student: nn.Module) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ModelError, match=r"mine cannot take images of 9 x 8 pixels .*choose another --image-size"):
        check_model(linear, "mine", num_classes=2, image_size=(9, 8))


def test_a_trial_changes_neither_flags_nor_statistics_nor_the_generator(conv_student: nn.Module) -> None:
    conv_student.train()
    conv_student.early.eval()
    flags = [module.training for module in conv_student.modules()]
    state = {key: value.clone() for key, value in conv_student.state_dict().items()}
    chance = torch.get_rng_state()
    assert check_model(conv_student, "mine", num_classes=None, image_size=(16, 16)) == 5
    assert [module.training for module in conv_student.modules()] == flags
    assert all(torch.equal(state[key], value) for key, value in conv_student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)


def test_a_model_without_parameters_can_be_tried() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert check_model(model, "means", num_classes=3, image_size=(4, 4)) == 3


# Default taps


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([12], [0, 6, 11]),  # DeiT, ConViT
        ([7], [0, 3, 6]),  # T2T-ViT-7
        ([14], [0, 7, 13]),  # T2T-ViT-14
        ([2, 6, 4], [0, 6, 11]),  # PiT
        ([2, 2, 2, 2], [0, 3, 7]),  # PVT
        ([2, 2, 6, 2], [0, 6, 11]),  # Swin
        ([3], [0, 1, 2]),
    ],
)
def test_first_middle_and_last_block_are_those_of_the_paper(blocks: list[int], expected: list[int]) -> None:
    listed = [f"stages.{stage}.blocks.{block}" for stage, many in enumerate(blocks) for block in range(many)]
    assert [listed.index(name) for name in spread(listed, 3, staged=len(blocks) > 1)] == expected


def test_more_or_fewer_taps_still_go_from_first_to_last() -> None:
    listed = [f"blocks.{block}" for block in range(12)]
    assert spread(listed, 1, staged=False) == ["blocks.11"]
    assert spread(listed, 2, staged=False) == ["blocks.0", "blocks.11"]
    for many in range(2, 13):
        found = spread(listed, many, staged=False)
        assert len(set(found)) == many and found == sorted(found, key=listed.index)
        assert (found[0], found[-1]) == ("blocks.0", "blocks.11")
    with pytest.raises(TapError, match=r"of 2 blocks cannot be tapped at 3 .*: --taps blocks\.0,blocks\.1,blocks\.1$"):
        spread(listed[:2], 3, staged=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer1", "layer2", "layer3"]),
        ("convnext_atto", ["stages.0", "stages.1", "stages.2"]),
        ("efficientnet_b0", ["blocks.1", "blocks.2", "blocks.4"]),
        ("swin_tiny_patch4_window7_224", ["layers.0.blocks.0", "layers.2.blocks.2", "layers.3.blocks.1"]),
    ],
)
def test_models_of_timm_are_tapped_where_their_stages_end(name: str, expected: list[str]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert default_taps(model) == expected


def test_stages_are_in_the_order_of_their_numbers() -> None:
    model = nn.Module()
    for number in (10, 2, 1):
        model.add_module(f"layer{number}", nn.Identity())
    assert stage_names(model) == ["layer1", "layer2", "layer10"]


def test_a_model_may_state_its_taps_itself(conv_student: nn.Module) -> None:
    assert default_taps(conv_student) == ["early", "middle", "late"]


def test_a_model_with_neither_blocks_nor_stages_is_told_what_to_give() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images).mean((2, 3)))

    expected = "no transformer blocks and no 3 stages to tap; name the layers with --taps (its parts: body, head;"
    with pytest.raises(TapError, match=re.escape(expected)):
        default_taps(Plain())


def test_blocks_without_attention_are_no_transformer_blocks() -> None:
    model = nn.Module()
    model.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)))
    assert block_names(model) == []
    assert create_model("resnet8", num_classes=2).__class__ is CifarResNet
