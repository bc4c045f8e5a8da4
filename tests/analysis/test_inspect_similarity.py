"""CKA: against a loop, identities, and the estimate in batches."""

import itertools

import pytest
import torch
from torch import Tensor

from lgkd.analysis.inspect.cka import Alignment, hsic
from lgkd.errors import InputError


def cka(first: Tensor, second: Tensor) -> float:
    alignment = Alignment()
    alignment.add([first], [second])
    return float(alignment.values())


def features(seed: int, count: int = 40, width: int = 12) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_estimate_is_the_mean_over_four_different_images() -> None:
    # Song et al. define it so: tr(KL) over pairs, K L over two pairs, and over three images, all of them different.
    first, second = (features(seed, 7, 3) for seed in (1, 2))
    one, two = first @ first.T, second @ second.T
    pairs = list(itertools.permutations(range(7), 2))
    triples = list(itertools.permutations(range(7), 3))
    fours = list(itertools.permutations(range(7), 4))
    expected = (
        sum(one[i, j] * two[i, j] for i, j in pairs) / len(pairs)
        + sum(one[i, j] * two[k, m] for i, j, k, m in fours) / len(fours)
        - 2 * sum(one[i, j] * two[i, k] for i, j, k in triples) / len(triples)
    )
    assert float(hsic(one, two)) == pytest.approx(float(expected))


def test_the_estimate_is_not_biased() -> None:
    # Unrelated features: over many draws its mean is nothing, while every biased estimate is above it.
    draws = ((features(2 * draw, 6, 4), features(2 * draw + 1, 6, 4)) for draw in range(600))
    values = [float(hsic(first @ first.T, second @ second.T)) for first, second in draws]
    mean = sum(values) / len(values)
    error = torch.tensor(values).std().item() / len(values) ** 0.5
    assert abs(mean) < 4 * error


def test_a_layer_is_one_with_itself_turned_scaled_and_shifted() -> None:
    first = features(1)
    turn = torch.linalg.qr(features(3, 12, 12)).Q
    assert cka(first, first) == pytest.approx(1)
    assert cka(first, first @ turn) == pytest.approx(1)
    assert cka(first, -7.5 * first) == pytest.approx(1)
    assert cka(first, first + 100 * features(4, 1, 12)) == pytest.approx(1)


def test_turning_and_scaling_either_side_changes_nothing() -> None:
    first = features(1)
    second = first @ features(5, 12, 9) + features(6, 40, 9)
    turn = torch.linalg.qr(features(3, 9, 9)).Q
    assert cka(first, second) == pytest.approx(cka(second, first))
    assert cka(first, second) == pytest.approx(cka(first, 0.01 * second @ turn))
    assert 0.1 < cka(first, second) < 0.99


def test_stretching_one_direction_does_change_it() -> None:
    first = features(1)
    stretch = torch.ones(12, dtype=torch.float64)
    stretch[0] = 10
    assert cka(first, first * stretch) < 0.8


def test_unrelated_layers_have_nothing_in_common_even_when_wide() -> None:
    # The biased estimate is near 1 here, for there are more dimensions than images.
    assert abs(cka(features(1, 60, 500), features(2, 60, 500))) < 0.1


def test_batches_give_what_all_images_give_but_for_chance() -> None:
    first = features(1, 512)
    second = first @ features(5, 12, 9) + 2 * features(6, 512, 9)
    batches = Alignment()
    for start in range(0, 512, 32):
        batches.add([first[start : start + 32]], [second[start : start + 32]])
    assert float(batches.values()) == pytest.approx(cka(first, second), abs=0.03)


def test_every_layer_meets_every_stage() -> None:
    ours, theirs = [features(1), features(2)], [features(2), features(3), features(1)]
    alignment = Alignment()
    alignment.add([one.view(40, 3, 2, 2) for one in ours], theirs)
    values = alignment.values()
    assert values.shape == (2, 3)
    for row, column in itertools.product(range(2), range(3)):
        assert float(values[row, column]) == pytest.approx(cka(ours[row], theirs[column]))


def test_three_images_are_too_few() -> None:
    with pytest.raises(InputError, match="asked for on 3 images at once, expected 4 or more"):
        hsic(torch.eye(3), torch.eye(3))
