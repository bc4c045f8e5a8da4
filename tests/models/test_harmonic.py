"""Harmonic convolutions against scipy's cosine transform, a plain convolution and a hand-worked filter."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F

import lgkd
from lgkd.models.cnn.harmonic import HarmonicConv2d, HarmonicStem, cosine_filters
from lgkd.models.cnn.resnet import CifarResNet


@pytest.mark.parametrize("side", [2, 3, 5])
def test_filters_are_those_of_a_cosine_transform(side: int) -> None:
    filters = cosine_filters(side)
    for number, found in enumerate(filters):
        unit = np.zeros((side, side))
        unit[number // side, number % side] = 1
        expected = scipy.fft.idctn(unit, type=2)  # the wave that has this one coefficient
        assert np.allclose(found, expected / np.abs(expected).sum(), atol=1e-6)


def test_the_second_filter_by_hand() -> None:
    # cos(pi/6), cos(pi/2), cos(5 pi/6) in every row: +, 0, - of sqrt(3)/2, whose absolute values add up to 3 sqrt(3).
    wave = math.sqrt(3) / 2 / (3 * math.sqrt(3))
    assert torch.allclose(cosine_filters(3)[1], torch.tensor([[wave, 0.0, -wave]] * 3), atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_a_plain_convolution_with_the_sum_of_weighted_filters(stride: int) -> None:
    layer = HarmonicConv2d(4, 6, stride)
    kernel = torch.zeros(6, 4, 3, 3)
    for out in range(6):
        for into in range(4):
            for number, wave in enumerate(cosine_filters(3)):
                kernel[out, into] += layer.weight[out, into, number // 3, number % 3].detach() * wave
    x = torch.randn(2, 4, 9, 9)
    assert torch.allclose(layer(x), F.conv2d(x, kernel, stride=stride, padding=1), atol=1e-5)


def test_the_stem_normalises_each_wave_of_each_colour() -> None:
    stem = HarmonicStem(3, 5)
    x = torch.randn(16, 3, 8, 8) * 3 + 1
    transformed = [
        F.conv2d(x[:, colour : colour + 1], wave[None, None], padding=1)
        for colour in range(3)
        for wave in cosine_filters(3)
    ]
    waves = torch.cat(transformed, dim=1)
    mean, variance = waves.mean(dim=(0, 2, 3), keepdim=True), waves.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    expected = torch.einsum("oc,bchw->bohw", stem.mix.weight[:, :, 0, 0], (waves - mean) / (variance + 1e-5).sqrt())
    assert torch.allclose(stem(x), expected, atol=1e-4)


def test_a_harmonic_resnet_has_the_weights_of_a_plain_one_but_for_its_stem() -> None:
    plain, harmonic = (CifarResNet(20, 10, harmonic=kind) for kind in (False, True))
    count = [sum(weight.numel() for weight in model.parameters()) for model in (plain, harmonic)]
    assert count[0] == count[1]
    assert harmonic(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_it_is_trained_and_stored(tmp_path) -> None:
    run = lgkd.train_teacher("resnet8", "digits", epochs=1, teacher_options={"harmonic": True}, out=tmp_path / "run")
    assert run.info["student"]["options"] == {"harmonic": True}
    teacher = lgkd.load_teacher("resnet8", "digits")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(teacher.model(x), run.student(x), atol=1e-5)
