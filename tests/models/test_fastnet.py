"""FastNet: maps, whitening and the fixed parts, against numbers worked out by other means."""

import pytest
import torch
from torch import nn

import lgkd
from lgkd.errors import ModelError
from lgkd.models.cnn.fastnet import FastNet
from lgkd.models.factory import create_model

WIDTHS = (8, 16, 32)


def images(count: int = 64, size: int = 12) -> torch.Tensor:
    """Noise whose neighbouring pixels and colours resemble each other."""
    noise = torch.randn(count, 1, size + 2, size + 2, generator=torch.Generator().manual_seed(3))
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1) * 3
    colours = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))
    return smooth + 0.3 * colours


def patches(of: torch.Tensor) -> torch.Tensor:
    """Every patch of 3x3 pixels, (N,27), cut out by loops."""
    cut = [
        of[:, :, row : row + 3, column : column + 3].flatten(1)
        for row in range(of.shape[2] - 2)
        for column in range(of.shape[3] - 2)
    ]
    return torch.cat(cut)


def test_maps_are_32_16_and_8_wide_and_the_last_4() -> None:
    model = FastNet(10, WIDTHS).eval()
    x = model.stem(torch.randn(2, 3, 32, 32))
    assert x.shape == (2, 32, 32, 32)
    x = model.group1(x)
    assert x.shape == (2, 8, 16, 16)
    x = model.group2(x)
    assert x.shape == (2, 16, 8, 8)
    assert model.group3(x).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("size", [8, 31, 33, 64])
def test_images_of_other_sizes_have_logits(size: int) -> None:
    assert FastNet(10, WIDTHS).eval()(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_whitened_patches_have_unit_second_moments() -> None:
    model = FastNet(10, WIDTHS)
    model.lgkd_fit_images(images())
    filters = model.stem.conv.weight.flatten(1)
    outputs = patches(images()) @ filters[:16].T
    moments = outputs.T @ outputs / len(outputs)
    # The small constant that keeps faint directions from being blown up is 5e-4 beside variances of about 0.1.
    assert torch.allclose(moments, torch.eye(16), atol=0.01)
    assert torch.equal(filters[16:], -filters[:16])


def test_the_first_filter_is_the_strongest_direction() -> None:
    model = FastNet(10, WIDTHS)
    model.lgkd_fit_images(images())
    rows = patches(images()).double()
    _, strength, directions = torch.linalg.svd(rows, full_matrices=False)
    expected = directions[0] / (strength[0] ** 2 / len(rows) + 5e-4).sqrt()
    found = model.stem.conv.weight[0].flatten().double()
    assert torch.allclose(found.abs(), expected.abs(), rtol=1e-3, atol=1e-4)
    assert found[found.abs().argmax()] > 0


def test_images_in_parts_give_the_filters_of_the_whole() -> None:
    many = images(count=1300, size=6)
    whole, parts = FastNet(10, WIDTHS), FastNet(10, WIDTHS)
    whole.lgkd_fit_images(many)
    parts.lgkd_fit_images(many.flip(0))
    assert torch.allclose(whole.stem.conv.weight, parts.stem.conv.weight, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (4, 1, 8, 8), (4, 3, 2, 8), (3, 8, 8)])
def test_what_holds_no_patch_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"hold no patch of 3 x 3 pixels; expected \(B,3,H,W\)"):
        FastNet(10, WIDTHS).lgkd_fit_images(torch.zeros(shape))


@pytest.mark.parametrize("widths", [(0, 8, 8), (8, 8), (8, 8, 8, 8)])
def test_other_than_three_widths_of_at_least_one_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="expected three whole numbers of at least 1"):
        FastNet(10, widths)


def test_filters_and_scales_are_fixed_and_all_else_learns() -> None:
    model = FastNet(10, WIDTHS)
    model(torch.randn(4, 3, 16, 16)).logsumexp(1).sum().backward()
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    norms = {f"group{group}.{place}.weight" for group in (1, 2, 3) for place in (2, 5)}
    assert fixed == {"stem.conv.weight", *norms}
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_convolutions_begin_as_the_identity_on_their_first_inputs() -> None:
    convolution = FastNet(10, WIDTHS).group2[0]
    x = torch.randn(2, 8, 5, 5)
    assert torch.allclose(convolution(x)[:, :8], x, atol=1e-6)


def test_it_guides_by_its_stem_and_two_groups() -> None:
    teacher = lgkd.Teacher(create_model("fastnet_small", num_classes=10), image_size=32)
    student = create_model("vit_96", num_classes=10, image_size=32)
    guide = lgkd.Guide(student, teacher, image_size=32, terms=[lgkd.Term(lgkd.losses.MapLoss())])
    assert [(pair.teacher, pair.teacher_map[1:]) for pair in guide.pairs] == [
        ("stem", (32, 32)),
        ("group1", (16, 16)),
        ("group2", (8, 8)),
    ]


@pytest.mark.parametrize(("size", "grid"), [(32, 8), (48, 8), (64, 8), (96, 8), (8, 8)])
def test_patches_of_the_small_vits_cut_an_image_into_eight(size: int, grid: int) -> None:
    model = create_model("vit_128", num_classes=10, image_size=size)
    assert model.patch_embed.grid_size == (grid, grid)
