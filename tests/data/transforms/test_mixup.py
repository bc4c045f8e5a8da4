"""Mixup, cutmix and smoothing: formulas by hand, distributions by their laws, draws by their promises."""

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import mixup_target

from lgkd.config import Mix
from lgkd.data.transforms.mixup import Mixing, cut_boxes
from lgkd.errors import InputError


def batch(count: int, side: int = 8, classes: int = 5):
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, side, side, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    index = torch.randperm(1000, generator=generator)[:count]
    return images, labels, index


def test_with_nothing_on_it_is_inactive_and_gives_back_what_it_got():
    mixing = Mixing(Mix(), classes=5, seed=0)
    images, labels, index = batch(4)
    assert not mixing.active
    mixed, targets = mixing(images, labels, index, 0)
    assert mixed is images and targets is labels


def test_smoothing_alone_softens_targets_and_leaves_images():
    mixing = Mixing(Mix(), classes=5, smoothing=0.1, seed=0)
    images, labels, index = batch(3)
    mixed, targets = mixing(images, labels, index, 0)
    assert mixing.active and mixed is images
    assert torch.allclose(targets[0, labels[0]], torch.tensor(0.92))
    assert torch.allclose(targets.sum(1), torch.ones(3))
    assert torch.allclose(targets, mixup_target(labels, 5, 1.0, 0.1))


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_mixup_is_the_weighted_sum_of_partners(count):
    mixing = Mixing(Mix(mixup=0.8), classes=5, smoothing=0.1, seed=3)
    images, labels, index = batch(count)
    mixed, targets = mixing(images, labels, index, 2)
    partner = mixing.partners(index, 2)
    kept, boxes = mixing.shares(index, 2, (8, 8))
    assert not boxes.any()
    for i in range(count):
        share = float(kept[i])
        expected = share * images[i] + (1 - share) * images[partner[i]]
        assert torch.allclose(mixed[i], expected, atol=1e-6)
        pair = labels[[i, int(partner[i])]]
        # timm takes the reversed batch for partners: a batch of two is a pair.
        assert torch.allclose(targets[i], mixup_target(pair, 5, share, 0.1)[0], atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(count))


def test_cutmix_takes_a_box_from_the_partner_and_counts_its_pixels():
    mixing = Mixing(Mix(cutmix=1.0), classes=5, seed=1)
    images, labels, index = batch(9)
    mixed, targets = mixing(images, labels, index, 0)
    partner = mixing.partners(index, 0)
    _, boxes = mixing.shares(index, 0, (8, 8))
    for i, (top, bottom, left, right) in enumerate(boxes):
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = images[partner[i], :, top:bottom, left:right]
        assert torch.equal(mixed[i], expected)
        wanted = torch.zeros(5)
        share = (bottom - top) * (right - left) / 64
        wanted[labels[i]] += 1 - share
        wanted[labels[partner[i]]] += share
        assert torch.allclose(targets[i], wanted, atol=1e-6)


def test_cut_boxes_are_square_shares_clipped_at_the_border():
    boxes = cut_boxes(
        np.array([0.75, 0.75, 1.0, 0.0]), (8, 16), np.array([0.5, 0.0, 0.5, 0.99]), np.array([0.5, 0.99, 0.3, 0])
    )
    assert boxes.tolist() == [[2, 6, 4, 12], [0, 2, 11, 16], [4, 4, 4, 4], [3, 8, 0, 8]]


def test_shares_follow_the_beta_law_and_cutmix_the_switch():
    index = torch.arange(8000)
    kept, _ = Mixing(Mix(mixup=0.4), classes=2, seed=5).shares(index, 0, (32, 32))
    assert stats.kstest(kept, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    both = Mixing(Mix(mixup=0.8, cutmix=1.0, switch=0.3, probability=0.6), classes=2, seed=5)
    kept, boxes = both.shares(index, 1, (32, 32))
    untouched = kept == 1.0
    cut = boxes[:, 1] > boxes[:, 0]
    # A drawn box may have no pixel: lambda above 1 - 1/1024 for cutmix, in 0.1 % of the draws.
    assert abs(untouched.mean() - 0.4) < 0.02
    assert abs(cut.mean() - 0.6 * 0.3) < 0.02
    assert np.allclose(kept[cut], 1 - (boxes[cut, 1] - boxes[cut, 0]) * (boxes[cut, 3] - boxes[cut, 2]) / 1024)


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_partners_form_one_cycle_through_the_batch(count):
    index = torch.randperm(500)[:count]
    partner = Mixing(Mix(mixup=1.0), classes=2, seed=0).partners(index, 4)
    place, steps = int(partner[0]), 1
    while place != 0:
        place, steps = int(partner[place]), steps + 1
    assert steps == count


def test_mixing_does_not_depend_on_the_order_of_the_batch():
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=5, smoothing=0.1, seed=2)
    images, labels, index = batch(11)
    mixed, targets = mixing(images, labels, index, 3)
    order = torch.randperm(11)
    again, again_targets = mixing(images[order], labels[order], index[order], 3)
    assert torch.equal(again, mixed[order])
    assert torch.equal(again_targets, targets[order])
    other_epoch, _ = mixing(images, labels, index, 4)
    assert not torch.equal(other_epoch, mixed)


@pytest.mark.parametrize("given", [False, True], ids=["found", "given"])
def test_large_images_are_mixed_one_by_one_to_the_same_bits(monkeypatch, given):
    images, labels, index = batch(16, side=12)
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0, probability=0.8), classes=5, smoothing=0.1, seed=3)
    partner = mixing.partners(index, 2)
    partners = (images[partner], labels[partner]) if given else ()
    together = mixing(images, labels, index, 2, *partners)
    monkeypatch.setattr("lgkd.data.transforms.mixup._LARGE", 1)
    alone = mixing(images, labels, index, 2, *partners)
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1])
    assert not torch.equal(alone[0], images)


def test_parts_of_a_batch_with_their_partners_equal_the_whole():
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=5, seed=2)
    images, labels, index = batch(10)
    whole, whole_targets = mixing(images, labels, index, 0)
    partner = mixing.partners(index, 0)
    for part in (slice(0, 4), slice(4, 10)):
        mixed, targets = mixing(
            images[part], labels[part], index[part], 0, images[partner[part]], labels[partner[part]]
        )
        assert torch.equal(mixed, whole[part])
        assert torch.equal(targets, whole_targets[part])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -0.1}, "Mix: mixup must be >= 0 (got -0.1)"),
        ({"cutmix": float("nan")}, "Mix: cutmix must be a finite number (got nan)"),
        ({"mixup": float("inf")}, "Mix: mixup must be a finite number (got inf)"),
        ({"probability": 1.2}, "Mix: probability must be <= 1 (got 1.2)"),
        ({"switch": -1}, "Mix: switch must be >= 0 (got -1)"),
        ({"smoothing": 1.0}, "the mixing: label_smoothing must be < 1 (got 1.0)"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_nonsense_settings_are_refused_with_field_value_and_range(settings, message):
    with pytest.raises(InputError) as caught:
        of_mix = {name: value for name, value in settings.items() if name in Mix.model_fields}
        Mixing(Mix(**of_mix), **{"classes": 3, "seed": 0} | {k: v for k, v in settings.items() if k not in of_mix})
    assert message in str(caught.value)


def test_batches_that_do_not_fit_are_refused():
    mixing = Mixing(Mix(mixup=0.8), classes=5, seed=2)
    images, labels, index = batch(4)
    with pytest.raises(InputError, match="do not fit"):
        mixing(images, labels[:3], index, 0)
    with pytest.raises(InputError, match="belong together"):
        mixing(images, labels, index, 0, partner_images=images)
    with pytest.raises(InputError, match="labels reach from 0 to 7; expected 0 to 4"):
        mixing(images, torch.tensor([0, 1, 7, 2]), index, 0)
