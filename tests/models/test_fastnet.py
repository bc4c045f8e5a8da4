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


def test_it_guides_by_its_groups() -> None:
    teacher = lgkd.Teacher(create_model("fastnet_small", num_classes=10), image_size=32)
    student = create_model("vit_96", num_classes=10, image_size=32)
    guide = lgkd.Guide(student, teacher, image_size=32, terms=[lgkd.Term(lgkd.losses.MapLoss())])
    assert [(pair.teacher, pair.teacher_map[1:]) for pair in guide.pairs] == [
        ("group1", (16, 16)),
        ("group2", (8, 8)),
        ("group3", (4, 4)),
    ]


def test_the_form_for_guidance_has_maps_of_16_8_and_8_and_its_groups_guide() -> None:
    teacher = lgkd.Teacher(create_model("fastnet_guide", num_classes=10), image_size=32)
    student = create_model("vit_96", num_classes=10, image_size=32)
    guide = lgkd.Guide(student, teacher, image_size=32, terms=[lgkd.Term(lgkd.losses.MapLoss())])
    assert [(pair.teacher, pair.teacher_map) for pair in guide.pairs] == [
        ("group1", (64, 16, 16)),
        ("group2", (128, 8, 8)),
        ("group3", (256, 8, 8)),
    ]


def test_the_form_for_guidance_equals_its_layers_written_out() -> None:
    model = create_model("fastnet_guide", num_classes=10).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.normal_(layer.bias, std=0.1)
    x = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(1))
    weights = model.state_dict()
    gelu, conv = nn.functional.gelu, nn.functional.conv2d
    expected = gelu(conv(x, weights["stem.conv.weight"], weights["stem.conv.bias"], padding=1))
    # Positions of the convolutions in a group: after a pool in the first two, at its head in the third.
    for group, places, pooled in ((1, (1, 4), True), (2, (1, 4), True), (3, (0, 3), False)):
        if pooled:
            expected = nn.functional.max_pool2d(expected, 2, ceil_mode=True)
        for place in places:
            expected = conv(expected, weights[f"group{group}.{place}.weight"], padding=1)
            norm = f"group{group}.{place + 1}"
            mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            expected = (expected - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
            expected = gelu(expected + weights[f"{norm}.bias"][:, None, None])
    logits = expected.mean(dim=(2, 3)) @ weights["fc.weight"].T
    assert torch.allclose(model(x), logits, rtol=1e-4, atol=1e-5)


def test_pooling_first_does_a_quarter_of_the_work_of_the_first_convolution() -> None:
    after, first = FastNet(10, WIDTHS), FastNet(10, WIDTHS, pool_first=True)
    seen: dict[str, tuple[int, ...]] = {}
    for name, model in (("after", after), ("first", first)):
        convolution = next(layer for layer in model.group1 if isinstance(layer, nn.Conv2d))
        convolution.register_forward_hook(lambda _, __, out, name=name: seen.update({name: tuple(out.shape)}))
        model.eval()(torch.randn(1, 3, 32, 32))
    assert seen == {"after": (1, 8, 32, 32), "first": (1, 8, 16, 16)}


@pytest.mark.parametrize("wrong", [{"output_stride": 2}, {"global_pool": "mean"}])
def test_unknown_strides_and_poolings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="expected a stride of 4 or 8 and a pooling of max or avg"):
        FastNet(10, WIDTHS, **wrong)


@pytest.mark.parametrize(("size", "grid"), [(32, 8), (48, 8), (64, 8), (96, 8), (8, 8)])
def test_patches_of_the_small_vits_cut_an_image_into_eight(size: int, grid: int) -> None:
    model = create_model("vit_128", num_classes=10, image_size=size)
    assert model.patch_embed.grid_size == (grid, grid)


@pytest.mark.parametrize("name", ["vit_96", "vit_128", "vit_192"])
def test_a_small_vit_with_convolutions_is_the_one_with_these_options(name: str) -> None:
    named = create_model(f"{name}_conv", num_classes=10, image_size=32)
    options = {"tokenizer": "conv", "conv_layers": 2, "conv_width": 32}
    chosen = create_model(name, num_classes=10, image_size=32, options=options)
    chosen.load_state_dict(named.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(named.eval()(x), chosen.eval()(x))
