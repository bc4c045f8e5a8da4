"""Colour operations against Pillow and timm, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data import auto_augment
from torch import Tensor

from lgkd.data.transforms import color
from lgkd.data.transforms.apply import apply_layer
from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, Layer


def pictures() -> Tensor:
    """Noise, dark and narrow-ranged noise, a gradient, flat colours, few levels: uint8 (8, 3, 24, 20)."""
    rng = np.random.default_rng(3)
    shape = (3, 24, 20)
    ramp = np.linspace(0, 255, 20).astype(np.uint8) * np.ones(shape, dtype=np.uint8)
    few = rng.choice(np.array([10, 11, 200], dtype=np.uint8), size=shape)
    stack = [
        rng.integers(0, 256, shape),
        rng.integers(0, 256, shape),
        rng.integers(0, 40, shape),
        rng.integers(90, 131, shape),
        ramp,
        few,
        np.full(shape, 77),
        np.concatenate([np.full((1, 24, 20), 255), rng.integers(0, 2, (2, 24, 20))]),
    ]
    return torch.from_numpy(np.stack(stack).astype(np.uint8))


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def changed(kind: str, strength: float) -> Tensor:
    images = pictures()
    layer = Layer(np.full(len(images), KINDS.index(kind)), np.full(len(images), float(strength)))
    apply_layer(images, layer, (124, 116, 104), "bicubic")
    return images


def furthest(kind: str, strength: float, oracle) -> int:
    """The largest difference in levels from what `oracle` makes of each picture."""
    expected = torch.stack([from_pil(oracle(as_pil(image))) for image in pictures()])
    return int((changed(kind, strength).int() - expected.int()).abs().max())


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [("autocontrast", ImageOps.autocontrast), ("equalize", ImageOps.equalize), ("invert", ImageOps.invert)],
)
def test_operations_without_a_strength_equal_pillow_exactly(kind, oracle):
    assert furthest(kind, 0, oracle) == 0


def test_autocontrast_equals_pillow_for_every_range_of_levels():
    for low in range(0, 250, 7):
        for high in range(low + 1, 256, 5):
            values = np.linspace(low, high, 16).astype(np.uint8).reshape(4, 4)
            image = np.stack([values] * 3, axis=-1)
            mine = color.autocontrast(torch.from_numpy(image).permute(2, 0, 1)[None], torch.zeros(1))
            theirs = np.array(ImageOps.autocontrast(Image.fromarray(image)))
            assert np.array_equal(mine[0, 0].numpy()[values], theirs[..., 0]), (low, high)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_posterize_equals_pillow_exactly(bits):
    assert furthest("posterize", bits, lambda image: ImageOps.posterize(image, bits)) == 0


@pytest.mark.parametrize("threshold", [0, 1, 26, 128, 255, 256])
def test_solarize_equals_pillow_exactly(threshold):
    assert furthest("solarize", threshold, lambda image: ImageOps.solarize(image, threshold)) == 0


@pytest.mark.parametrize("amount", [0, 1, 55, 110, 128])
def test_solarize_add_equals_timm_exactly(amount):
    assert furthest("solarize_add", amount, lambda image: auto_augment.solarize_add(image, amount)) == 0


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.55, 1.0, 1.37, 1.9, 2.7])
@pytest.mark.parametrize(
    ("kind", "enhancer"),
    [
        ("colour", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("brightness", ImageEnhance.Brightness),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_within_a_level_of_pillow(kind, enhancer, factor):
    # Both cut floats to levels; a compiler may contract Pillow's multiplication and addition into one.
    assert furthest(kind, factor, lambda image: enhancer(image).enhance(factor)) <= 1


def test_sharpness_leaves_images_without_an_inside_alone():
    images = torch.arange(18, dtype=torch.uint8).view(1, 3, 2, 3)
    assert torch.equal(color.sharpness(images, torch.tensor([1.9])), images)


def test_a_flat_image_survives_contrast_operations():
    flat = torch.full((1, 3, 5, 5), 9, dtype=torch.uint8)
    for operation in (color.autocontrast, color.equalize, color.contrast):
        table = operation(flat, torch.tensor([1.9])).expand(-1, 3, -1)
        assert torch.equal(color.looked_up(flat, table), flat)


def test_a_layer_changes_every_image_by_its_own_operation_and_leaves_the_others():
    images = pictures()
    names = ["invert", "brightness", "colour", "equalize", "rotate", "shear_y", "posterize", None]
    strengths = np.array([0, 0.5, 1.7, 0, 20.0, 0.2, 2, 9])
    kinds = np.array([UNTOUCHED if name is None else KINDS.index(name) for name in names])
    together = images.clone()
    apply_layer(together, Layer(kinds, strengths), (1, 2, 3), "bicubic")
    for place, name in enumerate(names):
        alone = images[place : place + 1].clone()
        if name is not None:
            apply_layer(alone, Layer(kinds[place : place + 1], strengths[place : place + 1]), (1, 2, 3), "bicubic")
        assert torch.equal(together[place], alone[0]), name


@pytest.mark.parametrize(
    ("kind", "strength", "oracle"),
    [
        ("autocontrast", 0, ImageOps.autocontrast),
        ("equalize", 0, ImageOps.equalize),
        ("posterize", 3, lambda image: ImageOps.posterize(image, 3)),
        ("solarize", 100, lambda image: ImageOps.solarize(image, 100)),
    ],
)
def test_large_images_go_through_their_tables_plane_by_plane_to_the_same_levels(kind, strength, oracle):
    rng = np.random.default_rng(7)
    levels = np.stack([rng.integers(20, 240, (70, 90, 3)), rng.binomial(255, 0.4, (70, 90, 3))]).astype(np.uint8)
    images = torch.from_numpy(levels).permute(0, 3, 1, 2).contiguous()
    expected = torch.stack([from_pil(oracle(Image.fromarray(image))) for image in levels])
    layer = Layer(np.full(2, KINDS.index(kind)), np.full(2, float(strength)))
    apply_layer(images, layer, (124, 116, 104), "bicubic")
    assert torch.equal(images, expected)
