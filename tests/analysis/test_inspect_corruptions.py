"""Common corruptions: against Pillow, SciPy and what can be said by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from lgkd.analysis.inspect.corruptions import STRENGTHS, corrupt
from lgkd.data.dataset import Images
from lgkd.errors import InputError


def some(count: int = 3, side: int = 32, sizes: list[list[int]] | None = None) -> Images:
    chance = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=chance)
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return Images(
        (255 * pixels).to(torch.uint8),
        torch.tensor(sizes or [[side, side]] * count, dtype=torch.int32),
        torch.arange(count),
        tuple(f"test/{place}.png" for place in range(count)),
    )


@pytest.mark.parametrize("kind", STRENGTHS)
def test_five_severities_each_farther_from_the_image_and_the_same_at_every_call(kind: str) -> None:
    images = some()
    before = images.pixels.clone()
    errors = []
    for severity in range(1, 6):
        changed = corrupt(images, kind, severity)
        assert changed.pixels.dtype == torch.uint8 and changed.names == images.names
        assert torch.equal(changed.pixels, corrupt(images, kind, severity).pixels)
        errors.append(float((changed.pixels.float() - before.float()).square().mean()))
    assert torch.equal(images.pixels, before)
    assert errors[0] > 0
    assert errors == sorted(errors)


def test_noise_has_the_standard_deviation_that_is_stated() -> None:
    grey = some(20)
    grey.pixels.fill_(128)
    for severity, strength in enumerate(STRENGTHS["gaussian noise"], 1):
        noise = corrupt(grey, "gaussian noise", severity).pixels.float() - 128
        assert float(noise.std()) / 255 == pytest.approx(strength, rel=0.02)


def test_brightness_is_added_and_cut_off_at_white() -> None:
    images = some()
    images.pixels[0, 0, 0, 0] = 250
    bright = corrupt(images, "brightness", 3).pixels
    assert int(bright[0, 0, 0, 0]) == 255
    expected = (images.pixels.double() + 255 * 0.15).round().clamp(max=255)
    assert float((bright.double() - expected).abs().max()) <= 1


def test_contrast_draws_every_channel_towards_its_mean() -> None:
    images = some()
    flat = corrupt(images, "contrast", 5).pixels.double()
    before = images.pixels.double()
    assert torch.allclose(flat.mean(dim=(2, 3)), before.mean(dim=(2, 3)), atol=0.5)
    assert torch.allclose(flat.std(dim=(2, 3)), 0.15 * before.std(dim=(2, 3)), rtol=0.05)


@pytest.mark.parametrize("side", [32, 64])
def test_blur_is_the_gaussian_of_scipy_in_proportion_to_the_image(side: int) -> None:
    images = some(1, side)
    blurred = corrupt(images, "blur", 5).pixels[0]
    for channel in range(3):
        expected = gaussian_filter(images.pixels[0, channel].numpy().astype(float), side / 32, mode="mirror")
        assert np.abs(blurred[channel].numpy() - expected).max() <= 1


def test_jpeg_is_that_of_pillow_up_to_its_rounding() -> None:
    images = some(1)
    ours = corrupt(images, "jpeg", 5).pixels[0].permute(1, 2, 0).numpy().astype(int)
    stream = io.BytesIO()
    Image.fromarray(images.pixels[0].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=40)
    theirs = np.asarray(Image.open(stream)).astype(int)
    assert np.abs(ours - theirs).mean() < 1.5


@pytest.mark.parametrize("kind", ["blur", "contrast", "jpeg"])
def test_what_fills_up_the_canvas_does_not_reach_the_image(kind: str) -> None:
    alone = some(1, 24)
    canvas = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    canvas[:, :, :24, :24] = alone.pixels
    lying = Images(canvas, torch.tensor([[24, 24]], dtype=torch.int32), alone.labels, alone.names)
    changed = corrupt(lying, kind, 4).pixels
    assert torch.equal(changed[:, :, :24, :24], corrupt(alone, kind, 4).pixels)
    assert torch.equal(changed[0, :, 30, :24], changed[0, :, 23, :24])
    assert torch.equal(changed[0, :, :, 30], changed[0, :, :, 23])


def test_other_kinds_and_severities_are_refused() -> None:
    with pytest.raises(InputError, match="there is no corruption 'blurr'; did you mean 'blur'"):
        corrupt(some(), "blurr", 1)
    with pytest.raises(InputError, match="the severity is 6, expected 1 to 5"):
        corrupt(some(), "blur", 6)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_image_is_corrupted_alike_in_any_company(kind: str) -> None:
    images = some(5)
    together = corrupt(images, kind, 5).pixels
    assert torch.equal(corrupt(images.take(torch.tensor([3, 1])), kind, 5).pixels, together[[3, 1]])
    if kind == "gaussian noise":
        noise = together.float() - images.pixels.float()
        assert not torch.equal(noise[0], noise[1])
