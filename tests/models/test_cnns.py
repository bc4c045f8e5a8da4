"""CNN teachers: parameters, maps, their work as teachers, bad input."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.taps import trace_shapes
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import ModelError
from lgkd.losses import MapLoss
from lgkd.models.cnn.densenet import DenseNet
from lgkd.models.cnn.mobile import MobileNetV2, ShuffleNetV2
from lgkd.models.cnn.resnet import CifarResNetX4
from lgkd.models.cnn.vgg import Vgg
from lgkd.models.cnn.wide_resnet import WideResNet
from lgkd.models.default_taps import classifier_name, default_taps, stage_names
from lgkd.models.factory import create_teacher, default_image_size, import_factory
from lgkd.models.pruned_teacher import trim
from lgkd.models.registry import MODELS, names
from lgkd.models.teacher import Teacher
from tests.support.cnns import MAPS, PUBLISHED, SMALL, K, count, small

# Parameters


def test_every_cnn_of_the_field_is_a_teacher_of_the_catalogue_and_is_tested_here() -> None:
    listed = [name for name in names("teacher") if name not in {f"resnet{d}" for d in (8, 20, 32, 44, 56, 110)}]
    assert set(PUBLISHED) == set(MAPS) <= set(listed)
    assert all("arXiv" in MODELS[name].source for name in PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_with_100_classes_are_those_that_were_published(name: str) -> None:
    with torch.device("meta"):
        model = untried(name)
    printed = PUBLISHED[name]
    decimals = len(printed.partition(".")[2])
    assert count(model) == MODELS[name].parameters
    assert f"{count(model) / 1e6:.{decimals}f}" == printed


def untried(name: str) -> nn.Module:
    """As the factory makes it, without the images that it is tried on: these would need a real device."""
    info = MODELS[name]
    if info.timm is not None:
        return timm.create_model(info.timm, num_classes=K)
    return import_factory(info.made_by or "")(num_classes=K, **info.preset)


@pytest.mark.parametrize("depth", [8, 14, 32])
def test_a_resnet_x4_has_the_parameters_of_the_formula(depth: int) -> None:
    n = (depth - 2) // 6
    stem, head = 27 * 32 + 2 * 32, 256 * K + K
    stages = 0
    for before, width in ((32, 64), (64, 128), (128, 256)):
        first = 9 * before * width + 9 * width**2 + 4 * width + before * width + 2 * width
        stages += first + (n - 1) * (18 * width**2 + 4 * width)
    assert count(CifarResNetX4(depth, K)) == stem + stages + head


@pytest.mark.parametrize(("depth", "width", "classes"), [(16, 2, 10), (40, 1, 10), (40, 2, 100), (10, 3, 7)])
def test_a_wide_resnet_has_the_parameters_of_the_formula(depth: int, width: int, classes: int) -> None:
    n = (depth - 4) // 6
    by_hand, before = 27 * 16, 16
    for channels in (16 * width, 32 * width, 64 * width):
        for block in range(n):
            inward = before if block == 0 else channels
            by_hand += 2 * inward + 9 * inward * channels + 2 * channels + 9 * channels**2
        # A projection where channels or grid change; the first stage keeps its grid.
        by_hand += before * channels if before != channels else 0
        before = channels
    by_hand += 2 * before + before * classes + classes
    assert count(WideResNet(depth, width, classes)) == by_hand
    # Counted by others: 691,674 and 563,930 for WRN-16-2 and WRN-40-1 with 10 classes.
    assert by_hand == {(16, 2): 691_674, (40, 1): 563_930}.get((depth, width), by_hand)


def test_densenet_bc_100_12_has_the_parameters_that_others_count_for_10_classes() -> None:
    assert count(DenseNet(100, 12, 10)) == 769_162


@pytest.mark.parametrize(("depth", "growth"), [(10, 4), (22, 12)])
def test_a_densenet_has_the_parameters_of_the_formula(depth: int, growth: int) -> None:
    n = (depth - 4) // 6
    channels = 2 * growth
    by_hand = 27 * channels
    for block in range(3):
        for _ in range(n):
            by_hand += 2 * channels + 4 * growth * channels + 8 * growth + 36 * growth**2
            channels += growth
        if block < 2:
            by_hand += 2 * channels + channels * (channels // 2)
            channels //= 2
    by_hand += 2 * channels + channels * K + K
    assert count(DenseNet(depth, growth, K)) == by_hand


@pytest.mark.parametrize(("width", "published"), [(0.5, 0.82), (0.75, 1.48), (1.0, 2.35), (1.4, 4.50)])
def test_mobilenets_of_all_widths_have_the_parameters_of_pytorch_cifar_models(width: float, published: float) -> None:
    with torch.device("meta"):
        ours, theirs = MobileNetV2(K, width=width), torchvision.models.MobileNetV2(K, width_mult=width)
    assert round(count(ours) / 1e6, 2) == published
    assert count(ours) == count(theirs), "strides have no parameters"


@pytest.mark.parametrize(("width", "published"), [(0.5, 0.44), (1, 1.36), (1.5, 2.58), (2.0, 5.55)])
def test_shufflenets_of_all_widths_have_the_parameters_of_pytorch_cifar_models(width: float, published: float) -> None:
    assert round(count(ShuffleNetV2(K, width=width)) / 1e6, 2) == published


@pytest.mark.parametrize(("depth", "layers"), [(8, [64, 128, 256, 512, 512]), (13, [64, 128, 256, 512, 512])])
def test_a_vgg_has_the_parameters_of_the_formula(depth: int, layers: list[int]) -> None:
    by_hand, before = 0, 3
    for width in layers:
        for _ in range(1 if depth == 8 else 2):
            by_hand += 9 * before * width + width + 2 * width
            before = width
    assert count(Vgg(depth, K)) == by_hand + 512 * K + K


# Maps


@pytest.mark.parametrize("name", [name for name in MAPS if name != "wrn_28_10"])
def test_the_default_taps_are_the_ends_of_the_first_three_stages(name: str) -> None:
    model = create_teacher(name, num_classes=5)
    size = default_image_size(name)
    taps = default_taps(model)
    assert taps == stage_names(model)[:3]
    _, outputs = trace_shapes(model, taps, torch.zeros(1, 3, size, size))
    assert [tuple(output.shape[1:]) for output in outputs] == MAPS[name]


def test_the_widest_one_has_the_maps_of_its_width() -> None:
    with torch.device("meta"):
        model = WideResNet(28, 10, 5)
        _, outputs = trace_shapes(model, default_taps(model), torch.zeros(1, 3, 32, 32))
    assert [tuple(output.shape[1:]) for output in outputs] == MAPS["wrn_28_10"]


def test_what_the_docstrings_say_of_activations_holds() -> None:
    images = torch.randn(4, 3, 32, 32)
    for name in SMALL:
        model = small(name)
        _, outputs = trace_shapes(model, default_taps(model), images)
        least = [output.min().item() for output in outputs]
        if name.startswith(("wrn", "mobile", "dense")):
            assert max(least) < 0, f"{name} is read before an activation"
        else:
            assert least == [0, 0, 0], f"{name} is read after its ReLU"


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_is_found_and_its_input_is_the_mean_over_the_last_map(name: str) -> None:
    model = small(name)
    found = dict(model.named_modules())[classifier_name(model)]
    assert isinstance(found, nn.Linear) and found.out_features == 5


def test_a_vgg_for_64_px_pools_once_more_and_ends_on_the_same_grid() -> None:
    for size, pooled in ((32, 4), (64, 4), ((64, 96), (4, 6)), (48, 6)):
        model = create_teacher("vgg8", num_classes=2, image_size=size)
        height, width = size if isinstance(size, tuple) else (size, size)
        _, (last,) = trace_shapes(model, ["stage5"], torch.zeros(1, 3, height, width))
        assert tuple(last.shape[2:]) == (pooled if isinstance(pooled, tuple) else (pooled, pooled))


@pytest.mark.parametrize("name", ["wrn_16_2", "mobilenet_v2", "shufflenet_v2", "vgg8", "resnet8x4"])
@pytest.mark.parametrize("size", [24, 64, (32, 48)])
def test_other_sizes_of_images_are_taken(name: str, size: int | tuple[int, int]) -> None:
    height, width = size if isinstance(size, tuple) else (size, size)
    model = create_teacher(name, num_classes=3, image_size=size)
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 3)


# Their work as teachers


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("logits", [True, False])
def test_a_teacher_reduced_to_what_is_read_computes_the_same(name: str, logits: bool) -> None:
    model = small(name).requires_grad_(False)
    taps, images = default_taps(model), torch.randn(3, 3, 32, 32)
    made = trim(model, taps, logits=logits, images=images)
    assert made is not None
    if logits:
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert (made.folded, norms) == SMALL[name][1:]
    whole, outputs = trace_shapes(model, taps, images)
    ours, maps = made(images)
    assert (ours is None) is (not logits)
    pairs = list(zip(maps, outputs, strict=True)) + ([(ours, whole)] if ours is not None else [])
    for found, expected in pairs:
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_comes_behind_the_last_tap_is_left_out() -> None:
    model = small("vgg13").requires_grad_(False)
    made = trim(model, default_taps(model), logits=False, images=torch.randn(2, 3, 32, 32))
    assert made is not None
    left = sum(isinstance(module, nn.Conv2d) for module in made.modules())
    assert left == 6, "two convolutions in each of three stages, of ten"


@pytest.mark.parametrize("name", SMALL)
def test_a_guided_step_teaches_the_student_and_leaves_the_teacher(
    name: str, conv_student: nn.Module, make_batch: Callable[..., Batch]
) -> None:
    teacher = Teacher(small(name), image_size=32)
    before = copy.deepcopy(teacher.model.state_dict())
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss("linear"), weight=2.5)])
    step = Guided(conv_student, guide)(make_batch(32))
    step.loss.backward()
    assert torch.isfinite(step.loss) and float(step.parts["guidance_linear"]) > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv_student.early.parameters() if p.ndim == 4)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = teacher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    guide.remove()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter_and_a_compiled_graph_says_the_same(name: str) -> None:
    model = small(name)
    images = torch.randn(2, 3, 32, 32)
    model.train()
    F.cross_entropy(model(images), torch.tensor([1, 3])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))
    torch.compiler.reset()


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarResNetX4(10, 5), r"the depth of a CIFAR ResNet is 10, expected 6n\+2"),
        (lambda: WideResNet(28, 0, 5), r"the width of a wide ResNet is 0, expected"),
        (lambda: WideResNet(4, 2, 5), r"the depth of a wide ResNet is 4, expected 6n\+4: 10, 16"),
        (lambda: WideResNet(27, 2, 5), r"the depth of a wide ResNet is 27, expected"),
        (lambda: WideResNet(10, 1, 5, dropout=1.0), r"dropout is 1.0, expected a share from 0 to below 1"),
        (lambda: Vgg(16, 5), r"the depth of a VGG is 16, expected 8 or 13"),
        (lambda: MobileNetV2(5, width=0), r"a MobileNetV2 of width 0 is out of range"),
        (lambda: MobileNetV2(5, dropout=-0.1), r"dropout is -0.1"),
        (
            lambda: ShuffleNetV2(5, width=0.75),
            r"ShuffleNetV2 of width 0.75 is not published; expected 0.5, 1, 1.5 or 2",
        ),
        (lambda: DenseNet(101, 12, 5), r"the depth of a DenseNet-BC is 101, expected 6n\+4"),
        (lambda: DenseNet(100, 0, 5), r"the growth of a DenseNet is 0, expected"),
    ],
)
def test_options_out_of_range_are_told(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda k: CifarResNetX4(8, k), lambda k: WideResNet(10, 1, k), lambda k: Vgg(8, k),
                                  MobileNetV2, ShuffleNetV2, lambda k: DenseNet(10, 4, k)])  # fmt: skip
def test_a_classifier_of_no_classes_is_refused(make: Callable[[int], nn.Module]) -> None:
    with pytest.raises(ModelError, match="num_classes is 0, expected at least 1"):
        make(0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn_40_2", {"width": 4}, r"wrn_40_2 has no option 'width'; known: dropout"),
        ("resnet8x4", {"widths": 4}, r"resnet8x4 has no option 'widths'; known: harmonic"),
        ("vgg8", {"depth": 13}, r"vgg8 has no option 'depth'; known: in_chans"),
        ("mobilenet_v2", {"widht": 2}, r"did you mean 'width'\?"),
        ("densenet_100_12", {"dropout": 2.0}, r"densenet_100_12: dropout is 2.0"),
        ("vgg8", {"image_size": 4}, r"vgg8 cannot take images of 4 x 4 pixels"),
    ],
)
def test_what_a_name_stands_for_is_no_option(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_teacher(name, num_classes=5, **options)


def test_options_of_width_reach_the_mobile_ones() -> None:
    assert create_teacher("mobilenet_v2", num_classes=5, width=0.5).classifier.in_features == 1280
    assert create_teacher("mobilenet_v2", num_classes=5, width=1.4).classifier.in_features == 1792
    assert create_teacher("shufflenet_v2", num_classes=5, width=2).classifier.in_features == 2048
