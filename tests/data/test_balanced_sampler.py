"""A balanced epoch shows every class equally often, from the seed and the epoch alone."""

from collections import Counter

import pytest
import torch

from lgkd.data.sampler import Sampler
from tests.support.loading import make_images, make_loader

LABELS = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)[torch.randperm(60, generator=torch.Generator().manual_seed(1))]


def balanced(**settings) -> Sampler:
    return Sampler(len(LABELS), **{"batch_size": 8, "seed": 4, "labels": LABELS, **settings})


def keys_of(sampler: Sampler, epoch: int) -> torch.Tensor:
    return torch.cat([*sampler.epoch(epoch)])


def classes_of(sampler: Sampler, epoch: int) -> Counter[int]:
    return Counter(LABELS[sampler.places(keys_of(sampler, epoch))].tolist())


@pytest.mark.parametrize("drop_last", [True, False])
def test_every_class_is_shown_equally_often_and_the_epoch_keeps_its_length(drop_last: bool):
    sampler, plain = balanced(drop_last=drop_last), Sampler(len(LABELS), batch_size=8, seed=4, drop_last=drop_last)
    assert sampler.steps == plain.steps
    shown = 56 if drop_last else 60
    for epoch in range(3):
        assert [len(keys) for keys in sampler.epoch(epoch)] == [len(keys) for keys in plain.epoch(epoch)]
        counts = classes_of(sampler, epoch)
        assert counts.total() == shown
        assert max(counts.values()) - min(counts.values()) <= 1


def test_what_does_not_divide_goes_to_the_classes_in_turn():
    # 56 shown images are 18 a class and 2 more: epoch by epoch they are of the classes 0 and 1, 2 and 0, 1 and 2.
    assert [classes_of(balanced(), epoch) for epoch in range(3)] == [
        {0: 19, 1: 19, 2: 18},
        {0: 19, 1: 18, 2: 19},
        {0: 18, 1: 19, 2: 19},
    ]


def test_a_class_is_shown_as_a_whole_before_any_of_its_images_is_repeated_also_over_epochs():
    sampler = balanced()
    counts: Counter[int] = Counter()
    for epoch in range(6):
        counts.update(sampler.places(keys_of(sampler, epoch)).tolist())
        for label in range(3):
            times = [counts[place] for place in (label == LABELS).nonzero().flatten().tolist()]
            assert max(times) - min(times) <= 1, (epoch, label)


def test_the_draws_of_an_image_that_is_repeated_are_its_own():
    for repeats in (1, 2, 3):
        sampler = balanced(repeats=repeats)
        for epoch in range(3):
            keys = keys_of(sampler, epoch)
            assert len(keys.unique()) == len(keys)


def test_repeats_show_every_image_that_often_in_its_batch():
    for keys in balanced(repeats=2).epoch(0):
        shown = Counter((balanced().places(keys)).tolist())
        assert all(number % 2 == 0 for number in shown.values())


def test_an_epoch_depends_on_seed_and_epoch_and_begins_in_its_middle():
    whole = [*balanced().epoch(2)]
    for start in range(len(whole)):
        assert all(torch.equal(a, b) for a, b in zip(balanced().epoch(2, start), whole[start:], strict=True))
    assert not torch.equal(keys_of(balanced(), 2), keys_of(balanced(), 3))
    assert not torch.equal(keys_of(balanced(), 2), keys_of(balanced(seed=5), 2))
    assert not torch.equal(LABELS[balanced().places(whole[0])].sort().values, LABELS[balanced().places(whole[0])])


def test_extra_images_keep_their_share_and_order():
    plain = Sampler(60, batch_size=8, seed=4, extra=9, extra_share=0.25)
    sampler = balanced(extra=9, extra_share=0.25)
    for ours, theirs in zip(sampler.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(ours[sampler.places(ours) >= 60], theirs[plain.places(theirs) >= 60])


def test_fewer_slots_than_classes_are_shared_over_epochs():
    labels = torch.arange(10)
    sampler = Sampler(10, batch_size=4, seed=0, labels=labels)
    counts = Counter(place for epoch in range(5) for place in sampler.places(keys_of(sampler, epoch)).tolist())
    assert set(counts.values()) == {4}  # 5 epochs of 8 images are 40, four times every class


def test_two_processes_share_the_batches_of_one():
    images = make_images(40)
    images = images.take(torch.tensor([*range(40)])[(images.labels != 1) | (torch.arange(40) < 8)])
    settings = {"balanced": True, "class_weights": torch.tensor([0.5, 3.0, 1.0, 1.0])}
    whole = [*make_loader(images, **settings).epoch(1, 1)]
    shares = [[*make_loader(images, rank=rank, processes=2, **settings).epoch(1, 1)] for rank in range(2)]
    counts = Counter(label for batch in whole for label in images.labels[batch.index].tolist())
    assert max(counts.values()) - min(counts.values()) <= 2  # the first of four steps is not among them
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ("images", "targets", "index"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
