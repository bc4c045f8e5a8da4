"""Subsets and held-out parts: balance, the prefix property, purity, messages."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgkd.data.dataset import Images
from lgkd.data.names import Subset
from lgkd.data.subsets import hold_out, select_subset
from lgkd.errors import DataError, InputError


def images(*counts: int) -> Images:
    """Classes of the given sizes, interleaved; the first pixel of an image is its place."""
    rows = sorted((place / count, label) for label, count in enumerate(counts) for place in range(count))
    labels = torch.tensor([label for _, label in rows])
    pixels = torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(len(rows), dtype=torch.uint8)
    sizes = torch.full((len(rows), 2), 2, dtype=torch.int32)
    return Images(pixels, sizes, labels, tuple(f"train/{label}/{place}.png" for place, (_, label) in enumerate(rows)))


def places(part: Images) -> list[int]:
    return part.pixels[:, 0, 0, 0].tolist()


def counts_of(part: Images) -> list[int]:
    return part.labels.bincount().tolist()


def test_a_fraction_keeps_the_balance_and_the_order() -> None:
    whole = images(40, 20, 10)
    half = select_subset(whole, Subset(fraction=0.5))
    assert counts_of(half) == [20, 10, 5]
    assert places(half) == sorted(places(half))
    assert [whole.names[place] for place in places(half)] == list(half.names)
    assert whole.labels[places(half)].tolist() == half.labels.tolist()


def test_images_per_class_are_exact() -> None:
    assert counts_of(select_subset(images(40, 20, 10), Subset(per_class=7))) == [7, 7, 7]


def test_a_tiny_fraction_keeps_one_image_of_each_class() -> None:
    assert counts_of(select_subset(images(40, 20, 10), Subset(fraction=0.001))) == [1, 1, 1]


def test_neither_choice_and_the_whole_fraction_keep_everything() -> None:
    whole = images(3, 4)
    assert select_subset(whole, Subset()) is whole
    assert select_subset(whole, Subset(fraction=1.0)) is whole


@settings(max_examples=40, deadline=None)
@given(a=st.floats(0.01, 1), b=st.floats(0.01, 1), seed=st.integers(0, 2**40))
def test_a_larger_fraction_contains_the_smaller(a: float, b: float, seed: int) -> None:
    whole = images(33, 17, 5)
    small, large = (set(places(select_subset(whole, Subset(fraction=f, seed=seed)))) for f in sorted((a, b)))
    assert small <= large


def test_more_images_per_class_contain_fewer() -> None:
    whole = images(30, 12)
    chosen = [set(places(select_subset(whole, Subset(per_class=count, seed=5)))) for count in range(1, 13)]
    assert all(few < more for few, more in pairwise(chosen))


def test_the_seed_alone_decides() -> None:
    whole = images(60, 60)
    torch.manual_seed(0)
    first = places(select_subset(whole, Subset(per_class=10, seed=1)))
    torch.manual_seed(1)
    assert places(select_subset(whole, Subset(per_class=10, seed=1))) == first
    assert places(select_subset(whole, Subset(per_class=10, seed=2))) != first


def test_classes_are_drawn_independently_of_each_other() -> None:
    whole = images(20, 20)
    chosen = select_subset(whole, Subset(per_class=10))
    ranks = [[(whole.labels == label).nonzero()[:, 0].tolist().index(place)
              for place, own in zip(places(chosen), chosen.labels.tolist(), strict=True) if own == label]
             for label in (0, 1)]  # fmt: skip
    assert ranks[0] != ranks[1]


def test_every_image_is_as_likely_as_any_other() -> None:
    whole = images(10, 10)
    hits = torch.zeros(20)
    for seed in range(400):
        hits[places(select_subset(whole, Subset(per_class=3, seed=seed)))] += 1
    assert (hits - 120).abs().max() < 4.5 * (400 * 0.3 * 0.7) ** 0.5


def test_messages_name_the_number_and_the_class() -> None:
    with pytest.raises(InputError) as caught:
        select_subset(images(8, 3), Subset(per_class=4))
    assert str(caught.value) == (
        "4 images per class were asked for, but class 1 (with 'train/1/1.png') holds 3: "
        "ask for fewer, or for a fraction"
    )


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=5),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 99),
)
def test_a_held_out_part_and_the_rest_are_the_whole(counts: list[int], fraction: float, seed: int) -> None:
    whole = images(*counts)
    rest, held = hold_out(whole, fraction, seed)
    assert sorted(places(rest) + places(held)) == places(whole)
    for count, kept, out in zip(counts, counts_of(rest), counts_of(held), strict=True):
        assert kept >= 1
        assert out >= 1
        assert abs(out - fraction * count) <= 0.5 or out in (1, count - 1)


def test_holding_out_needs_two_images_of_a_class_and_a_real_fraction() -> None:
    with pytest.raises(DataError) as caught:
        hold_out(images(5, 1), 0.2)
    assert str(caught.value) == (
        "class 1 (with 'train/1/1.png') holds 1 image: a class needs at least 2 to hold one out"
    )
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(InputError) as bad:
            hold_out(images(5, 5), fraction)
        assert str(bad.value) == f"the fraction to hold out is {fraction}, expected a number between 0 and 1"


def test_a_split_without_images_says_so() -> None:
    with pytest.raises(DataError, match="there are no images to choose from"):
        select_subset(images(3, 3).take(torch.empty(0, dtype=torch.int64)), Subset(per_class=1))
