"""RandAugment's notation and its draws, against timm's own."""

import random
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats
from timm.data.auto_augment import rand_augment_transform

from lgkd.data.transforms import rand_augment
from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, RandAugment, parse
from lgkd.errors import InputError

TIMM_NAME = {
    "AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert", "Rotate": "rotate",
    "Posterize": "posterize", "Solarize": "solarize", "SolarizeAdd": "solarize_add", "Color": "colour",
    "Contrast": "contrast", "Brightness": "brightness", "Sharpness": "sharpness", "ShearX": "shear_x",
    "ShearY": "shear_y", "TranslateXRel": "translate_x", "TranslateYRel": "translate_y",
}  # fmt: skip


def timms_draws(text: str, images: int) -> dict[str, list[float]]:
    """What timm does to `images` images: for each operation the arguments it was carried out with."""
    random.seed(11)
    np.random.seed(11)
    transform = rand_augment_transform(text, {"img_mean": (124, 116, 104)})
    seen: dict[str, list[float]] = defaultdict(list)
    for operation in transform.ops:
        name = TIMM_NAME[operation.name.removesuffix("Increasing")]

        def note(image, *arguments, name=name, **_):
            seen[name].append(float(arguments[0]) if arguments else 0.0)
            return image

        operation.aug_fn = note
    for _ in range(images):
        transform(None)
    return seen


def our_draws(text: str, images: int) -> dict[str, list[float]]:
    augment = parse(text)
    uniforms = np.random.default_rng(12).random((images, augment.draws))
    seen: dict[str, list[float]] = defaultdict(list)
    for layer in augment.draw(uniforms):
        for kind, strength in zip(layer.kind, layer.strength, strict=True):
            if kind != UNTOUCHED:
                seen[KINDS[kind]].append(strength)
    return seen


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-mstd101-p0.8", "rand-m7-mstd2.5-mmax8", "rand-m12-mstd3-mmax15-inc1"]
)
def test_operations_are_drawn_as_often_and_as_strong_as_timms(text):
    images = 20_000
    theirs, mine = timms_draws(text, images), our_draws(text, images)
    assert set(theirs) == set(mine) == set(KINDS)
    applied = np.array([[len(seen[name]) for name in KINDS] for seen in (mine, theirs)])
    # How often each operation was carried out, against each other and against the plain expectation.
    assert stats.chi2_contingency(applied).pvalue > 1e-3
    augment = parse(text)
    expected = images * augment.layers * augment.probability
    for total in applied.sum(axis=1):
        assert abs(total - expected) < 4 * np.sqrt(expected * (1 - augment.probability))
    for name in KINDS:
        left, right = np.array(mine[name]), np.array(theirs[name])
        if name == "posterize":
            right = np.maximum(right, 1)  # lgkd keeps at least one bit
        assert stats.ks_2samp(left, right).pvalue > 1e-3, name
        assert abs(left.min() - right.min()) <= 0.15 * (np.ptp(right) + 1e-9), name


def test_without_spread_the_strengths_are_timms_exactly():
    for text in ("rand-m9-inc1", "rand-m4", "rand-inc1", "rand-m0"):
        theirs, mine = timms_draws(text, 3000), our_draws(text, 3000)
        for name in KINDS:
            values = {max(1.0, value) for value in theirs[name]} if name == "posterize" else set(theirs[name])
            assert set(mine[name]) == values, (text, name)


def test_posterize_keeps_at_least_one_bit():
    levels = np.linspace(0, 20, 100)
    for increasing in (True, False):
        bits = rand_augment.strength_of("posterize", levels, np.ones(100), increasing)
        assert bits.min() == 1


def test_the_notation_is_read_in_any_order_and_has_timms_defaults():
    assert parse("rand") == RandAugment(10, 2, 0.0, 10, False, 0.5)
    assert parse("rand-inc1-m9-mstd0.5") == RandAugment(magnitude=9, spread=0.5, increasing=True)
    assert parse("rand-n3-p1-mmax20-m15-mstd101") == RandAugment(15, 3, float("inf"), 20, False, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rand-m9-foo3", "cannot read 'foo3'"),
        ("rand-m9-tweights", "cannot read 'tweights'"),
        ("rand-m-inc1", "cannot read 'm'"),
        ("augmix-m5", "expected timm's notation"),
        ("rand-m9-p1.5", "'p1.5' is out of range; p is a number from 0 to 1"),
        ("rand-m9.5", "'m9.5' is out of range; m is a whole number from 0 to 100"),
        ("rand-inc2", "'inc2' is out of range"),
        ("rand-m9-m8", "'m8' sets m a second time"),
        ("rand-m9-", "cannot read ''"),
    ],
)
def test_what_is_not_the_notation_is_refused_by_name(text, message):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_for_no_operations_draws_none():
    assert parse("rand-n0").draw(np.zeros((4, 0))) == []


def test_jitter_uses_every_operation_once_in_every_order_within_its_range():
    uniforms = np.random.default_rng(0).random((6000, rand_augment.JITTER_DRAWS))
    layers = rand_augment.jitter(uniforms, 0.4)
    kinds = np.stack([layer.kind for layer in layers], axis=1)
    wanted = sorted(KINDS.index(name) for name in ("brightness", "contrast", "colour"))
    assert (np.sort(kinds, axis=1) == wanted).all()
    _, counts = np.unique(kinds, axis=0, return_counts=True)
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3
    factors = np.concatenate([layer.strength for layer in layers])
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    strong = np.concatenate([layer.strength for layer in rand_augment.jitter(uniforms, 1.5)])
    assert strong.min() >= 0 and strong.max() > 2.4
