"""The teacher as a type: frozen whatever is done to it, normalising as it says, seeing its own view."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, TapError
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher, smaller


def by_hand(model: CifarResNet, images: Tensor, *, batch_statistics: bool) -> list[Tensor]:
    """A ResNet-8 written as functions: its three stages and its logits."""
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (None, None) if batch_statistics else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.batch_norm(x, mean, var, weight, bias, training=batch_statistics)

    x = F.relu(norm(F.conv2d(images, state["conv.weight"], padding=1), "bn"))
    outputs = []
    for stage, stride in (("stage1", 1), ("stage2", 2), ("stage3", 2)):
        inner = F.relu(norm(F.conv2d(x, state[f"{stage}.0.conv1.weight"], stride=stride, padding=1), f"{stage}.0.bn1"))
        inner = norm(F.conv2d(inner, state[f"{stage}.0.conv2.weight"], padding=1), f"{stage}.0.bn2")
        if stride == 2:
            x = norm(F.conv2d(x, state[f"{stage}.0.shortcut.0.weight"], stride=2), f"{stage}.0.shortcut.1")
        x = F.relu(inner + x)
        outputs.append(x)
    return [*outputs, x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]]


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_each_batch_norm_mode_is_what_the_formula_says(teacher: Teacher, mode: str) -> None:
    images = torch.randn(6, 3, 32, 32) * 2 + 1
    expected = by_hand(teacher.model, images, batch_statistics=mode == "batch")[-1]
    other = by_hand(teacher.model, images, batch_statistics=mode != "batch")[-1]
    found = teacher.use_batch_norm(mode)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, other, rtol=1e-2)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_the_guide_reads_the_maps_of_that_mode(
    teacher: Teacher, conv_student: nn.Module, make_batch: Callable[..., Batch], mode: str
) -> None:
    teacher.use_batch_norm(mode)
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss())])
    images = make_batch(32, count=6).images
    *expected, _ = by_hand(teacher.model, images, batch_statistics=mode == "batch")
    for found, value in zip(guide.teach(images).maps, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_teacher_statistics_survive_guided_training(
    teacher: Teacher, conv_student: nn.Module, make_batch: Callable[..., Batch], mode: str
) -> None:
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert any("num_batches_tracked" in key for key in before)
    guide = Guide(conv_student, teacher.use_batch_norm(mode), image_size=32, terms=[Term(MapLoss(), 2.5)])
    task = Guided(conv_student, guide)
    optimizer = torch.optim.SGD([*task.parameters(), *teacher.parameters()], lr=0.1, weight_decay=0.0)
    for seed in range(3):
        task.train()
        teacher.train()  # as a careless parent would
        teacher.train(False)
        task(make_batch(32, seed=seed)).loss.backward()
        optimizer.step()
    after = teacher.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_no_parent_can_put_a_teacher_into_training(teacher: Teacher, mode: str) -> None:
    teacher.use_batch_norm(mode)
    parent = nn.ModuleList([teacher]).train()
    assert parent.training
    for module in teacher.modules():
        normalises = isinstance(module, nn.BatchNorm2d)
        assert module.training is (mode == "batch" and normalises)


def test_a_dropout_in_the_teacher_stays_off_in_both_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(2, 3, 8, 8))
    teacher = Teacher(model, image_size=8, taps=["0"], batch_norm="batch").train()
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(teacher(images), teacher(images))


def test_a_running_teacher_answers_each_image_alone_and_a_batch_teacher_does_not(teacher: Teacher) -> None:
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(teacher(images)[:2], teacher(images[:2]), rtol=1e-5, atol=1e-5)
    teacher.use_batch_norm("batch")
    assert not torch.allclose(teacher(images)[:2], teacher(images[:2]), rtol=1e-2)


def test_the_mode_can_be_taken_back(teacher: Teacher) -> None:
    images = torch.randn(4, 3, 32, 32)
    before = teacher(images)
    assert torch.equal(teacher.use_batch_norm("batch").use_batch_norm("running")(images), before)


def test_no_gradient_reaches_a_teacher_or_what_lies_before_it(teacher: Teacher) -> None:
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    assert not teacher(images).requires_grad


def test_a_mistyped_mode_names_the_closest_one(teacher: Teacher) -> None:
    with pytest.raises(InputError, match=r"teacher_bn is 'bach'; did you mean 'batch'\?"):
        teacher.use_batch_norm("bach")


def resized_by_hand(image_chw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear without antialias: four neighbours, whatever the factor."""
    _, height, width = image_chw.shape
    out = torch.empty(3, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            sy = max((y + 0.5) * height / size[0] - 0.5, 0.0)
            sx = max((x + 0.5) * width / size[1] - 0.5, 0.0)
            y0, x0 = math.floor(sy), math.floor(sx)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            fy, fx = sy - y0, sx - x0
            out[:, y, x] = (image_chw[:, y0, x0] * (1 - fx) + image_chw[:, y0, x1] * fx) * (1 - fy) + (
                image_chw[:, y1, x0] * (1 - fx) + image_chw[:, y1, x1] * fx
            ) * fy
    return out


@pytest.mark.parametrize(("image_size", "teacher_size"), [(28, 8), ((20, 12), (8, 10)), (5, 9)])
def test_the_teachers_view_is_a_bilinear_resize_and_its_own_normalisation(
    image_size: int | tuple[int, int], teacher_size: int | tuple[int, int], make_batch: Callable[..., Batch]
) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    teacher = Teacher(CifarResNet(8, 2), image_size=teacher_size, mean=mean, std=std)
    images = make_batch(image_size, count=2).images
    column = [torch.tensor(value).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD)]
    found = teacher.view(images, *column)
    for image, seen in zip(images, found, strict=True):
        pixels = resized_by_hand(image, teacher.image_size)
        for channel in range(3):
            raw = pixels[channel] * IMAGENET_STD[channel] + IMAGENET_MEAN[channel]
            torch.testing.assert_close(seen[channel], (raw - mean[channel]) / std[channel], rtol=1e-5, atol=1e-5)


def test_the_view_is_the_image_itself_where_size_and_normalisation_agree() -> None:
    teacher = Teacher(CifarResNet(8, 2), image_size=32)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher.view(images, teacher.mean, teacher.std), images)


def test_a_teacher_is_tapped_at_its_stages_unless_told_otherwise() -> None:
    assert Teacher(CifarResNet(8, 2), image_size=32).taps == ["stage1", "stage2", "stage3"]
    assert Teacher(CifarResNet(8, 2), image_size=32, taps=["stage2"]).taps == ["stage2"]
    with pytest.raises(TapError, match="has no transformer blocks and no 3 stages"):
        Teacher(nn.Sequential(nn.Conv2d(3, 4, 3)), image_size=8)


def test_a_teacher_saves_no_normalisation_into_its_weights(teacher: Teacher) -> None:
    assert {key.split(".")[0] for key in teacher.state_dict()} == {"model"}


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((224, 224), (32, 32)),
        ((96, 32), (32, 32)),
        ((160, 96), (32, 32)),
        ((64, 64), (32, 32)),
        ((40, 33), (8, 11)),
        ((48, 50), (32, 32)),
    ],
)
def test_the_quick_way_to_shrink_images_gives_what_torch_gives(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    expected = F.interpolate(images, size=wanted, mode="bilinear", align_corners=False)
    assert torch.equal(smaller(images, wanted), expected)
