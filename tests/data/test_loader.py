"""Which samples a step is made of, extra and repeated ones, reading ahead; and that nothing waits for the device."""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lgkd._internal.rng import epoch_order
from lgkd.config import Mix, View
from lgkd.data.batch import Batch
from lgkd.data.loader import EvalLoader, TrainLoader
from lgkd.data.prefetch import ahead
from lgkd.data.sampler import Sampler
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.errors import InputError
from tests.support.loading import STATISTICS, make_images, make_loader
from tests.support.training import make_images as small_images
from tests.support.training import make_loader as small_loader


def parts(batch: Batch) -> tuple[torch.Tensor, ...]:
    assert batch.views == () and batch.taught == ()
    return batch.images, batch.targets, batch.index


def all_equal(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(one, other)
        for a, b in zip(left, right, strict=True)
        for one, other in zip(parts(a), parts(b), strict=True)
    )


def test_without_extras_an_epoch_is_its_order_cut_into_batches():
    sampler = Sampler(21, batch_size=8, seed=3, drop_last=False)
    assert torch.equal(torch.cat(list(sampler.epoch(2))), epoch_order(3, 2, 21))
    assert [len(keys) for keys in sampler.epoch(2)] == [8, 8, 5] and sampler.last == 5
    assert sampler.steps == 3 and Sampler(21, batch_size=8, seed=3).steps == 2
    assert Sampler(5, batch_size=8, seed=3).batch_size == 5


@pytest.mark.parametrize(("count", "more", "batch", "share", "drop_last"), [
    (40, 7, 10, 0.3, True), (23, 50, 8, 0.5, False), (30, 3, 6, 0.8, True), (5, 100, 64, 0.5, True),
])  # fmt: skip
def test_extra_images_are_their_share_and_walked_through_one_pass_after_the_other(count, more, batch, share, drop_last):
    sampler = Sampler(count, batch_size=batch, seed=1, drop_last=drop_last, extra=more, extra_share=share)
    walk: list[int] = []
    for epoch in range(4):
        steps = [sampler.places(keys).tolist() for keys in sampler.epoch(epoch)]
        real = [place for step in steps for place in step if place < count]
        assert len(set(real)) == len(real) >= count - (batch if drop_last else 0)
        wanted = round(share * batch) if count >= batch else round(share * count / (1 - share))
        for step in steps[: sampler.steps if drop_last else -1]:
            assert len(step) == sampler.batch_size and sum(place >= count for place in step) == wanted
        assert len(steps[-1]) == sampler.last
        walk += [place - count for step in steps for place in step if place >= count]
        keys = torch.cat(list(sampler.epoch(epoch))).tolist()
        assert len(set(keys)) == len(keys)  # a sample that comes twice in an epoch draws anew
    passes = [walk[start : start + more] for start in range(0, len(walk) - more + 1, more)]
    assert all(sorted(one) == list(range(more)) for one in passes)
    assert more < 4 or len(passes) < 2 or passes[0] != passes[1]


def test_extra_images_lie_evenly_among_the_real_ones():
    sampler = Sampler(300, batch_size=30, seed=1, extra=100, extra_share=0.2)
    for keys in sampler.epoch(0):
        for share in keys.tensor_split(3):
            assert int((sampler.places(share) >= 300).sum()) == 2


def test_reflected_padding_is_that_of_numpy_for_students_teachers_and_extra_images():
    images, more = make_images(20), make_images(9, 17, seed=1)
    images.sizes[::3] = torch.tensor([7, 12])
    view = View(crop="pad", padding=0.9, padding_mode="reflect", flip=0.0)
    student, teacher = (Augment(view, size, **STATISTICS, seed=5) for size in (10, (23, 14)))
    mixing = Mixing(Mix(), classes=4, smoothing=0.0, seed=5)
    settings = {"extra": more, "extra_share": 0.25, "views": [teacher, None]}
    loader = TrainLoader(images, student, mixing, batch_size=8, seed=5, **settings)
    outside, seen = 0, 0
    sampler = Sampler(20, batch_size=8, seed=5, extra=9, extra_share=0.25)
    for keys, batch in zip(sampler.epoch(0), loader.epoch(0), strict=True):
        assert batch.views[1] is None
        for place, key in enumerate(keys):
            store, at = (images, batch.index[place]) if batch.index[place] < 20 else (more, batch.index[place] - 20)
            height, width = store.sizes[at].tolist()
            ((top, left, _, _),) = student.crops(store.sizes[at][None], key[None], 0)[0].tolist()
            padded = np.pad(store.pixels[at, :, :height, :width], ((0, 0), (99, 99), (99, 99)), mode="reflect")
            window = torch.from_numpy(padded[None, :, 99 + top :, 99 + left :][:, :, :height, :width].copy())
            for shown, made in ((batch.images, student), (batch.views[0], teacher)):
                plain = Plain(made.image_size, **STATISTICS)
                assert torch.equal(shown[place], plain(window, torch.tensor([[height, width]]))[0])
            outside, seen = outside + bool(top or left), seen + 1
    assert seen == 24 and outside > 20


def test_repeated_images_come_so_often_in_their_batch_and_the_epoch_keeps_its_steps():
    sampler = Sampler(40, batch_size=12, seed=2, repeats=3)
    assert sampler.steps == 3
    steps = [sampler.places(keys).tolist() for keys in sampler.epoch(1)]
    for step in steps:
        assert set(Counter(step).values()) == {3}
        assert step[:4] == step[4:8] == step[8:]
    assert [place for step in steps for place in step[:4]] == epoch_order(2, 1, 40)[:12].tolist()
    uneven = Sampler(40, batch_size=10, seed=2, repeats=3)
    counts = Counter(place for keys in uneven.epoch(0) for place in uneven.places(keys).tolist())
    assert sorted(counts.values()) == [1] + [3] * 13


def test_repeated_and_extra_images_are_drawn_anew_each_time():
    loader = make_loader(make_images(8), mixup=0.0, repeats=2, extra=make_images(2, seed=1), extra_share=0.5)
    batch = next(loader.epoch(0))
    assert set(Counter(batch.index.tolist()).values()) == {2}
    assert len({image.numpy().tobytes() for image in batch.images}) == len(batch.images) == 8
    assert loader.names(torch.tensor([7, 8, 9])) == ["0/7", "1/0", "1/1"]


def test_what_a_sample_becomes_does_not_depend_on_extra_images():
    view = View(rand_augment="rand-m9-inc1")
    alone = make_loader(make_images(12), view=view, mixup=0.0, batch_size=4)
    mixed = make_loader(make_images(12), view=view, mixup=0.0, extra=make_images(9, 17, seed=1), extra_share=0.5)
    seen = {int(place): image for batch in alone.epoch(0) for image, _, place in zip(*parts(batch), strict=True)}
    for images, targets, index in map(parts, mixed.epoch(0)):
        assert targets.shape == (8, 4) and int((index >= 12).sum()) == 4
        for place, image, target in zip(index.tolist(), images, targets, strict=True):
            label = place % 4 if place < 12 else (place - 12) % 4
            assert int(target.argmax()) == label
            assert place >= 12 or torch.equal(image, seen[place])


MANY = {"repeats": 2, "extra_share": 0.4, "drop_last": False}


def test_a_batch_is_the_same_from_the_middle_of_an_epoch_and_cut_among_processes():
    extra = make_images(5, 9, seed=1)
    whole = list(make_loader(make_images(22), extra=extra, **MANY).epoch(3))
    assert all_equal(make_loader(make_images(22), extra=extra, **MANY).epoch(3, start=2), whole[2:])
    shares = [
        list(make_loader(make_images(22), extra=extra, rank=rank, processes=3, **MANY).epoch(3)) for rank in range(3)
    ]
    for step, expected in enumerate(whole):
        for part, wanted in zip(
            zip(*(parts(share[step]) for share in shares), strict=True), parts(expected), strict=True
        ):
            assert torch.equal(torch.cat(part), wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "a batch of 0 images"),
        ({"repeats": 0}, "repeats is 0"),
        ({"extra": 5, "extra_share": 1.0}, "the share of extra images is 1"),
        ({"extra": 5, "extra_share": 0.01}, "leaves no extra image in a batch of 8"),
        ({"extra": 5, "extra_share": 0.99}, "leaves no real image in a batch of 8"),
    ],
)
def test_batches_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Sampler(20, **{"batch_size": 8, "seed": 0, **settings})


def lgkd_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lgkd-loader")]


def test_reading_ahead_gives_the_same_batches_and_leaves_no_thread():
    plain = make_loader(make_images(30), rank=1, processes=2)
    early = make_loader(make_images(30), rank=1, processes=2, read_ahead=True)
    assert all_equal(plain.epoch(1), early.epoch(1))
    assert not lgkd_threads()
    batches = early.epoch(0)
    next(batches)
    assert len(lgkd_threads()) == 1
    batches.close()
    assert not lgkd_threads()


def test_one_item_is_made_while_the_last_is_worked_on_and_no_more():
    made: list[int] = []
    second = threading.Event()

    def items():
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    results = ahead(items())
    assert next(results) == 0
    assert second.wait(10)
    results.close()
    assert made == [0, 1]


def test_an_error_of_the_reading_thread_comes_when_its_batch_is_due():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    results = ahead(items())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert not lgkd_threads()


class Counting(TorchDispatchMode):
    """Counts the operations that would make the host wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        self.operations += 1
        if name.startswith(self.WAITING):
            self.waits.append(name)
        # A boolean mask as an index asks how many are set.
        if name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for argument in args[1:]
            for index in (argument if isinstance(argument, list | tuple) else [argument])
        ):
            self.waits.append(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("view", [
    View(rand_augment="rand-m9-n6-mstd0.5-inc1-p0.9", erase=0.5), View(crop="pad", color_jitter=0.4, erase=1.0),
    View(crop="pad", padding_mode="reflect", color_jitter=0.4, erase=1.0),
])  # fmt: skip
def test_nothing_in_the_feed_waits_for_the_device(view):
    loader = make_loader(make_images(60), view=view, repeats=2, extra=make_images(9, 17, seed=1), extra_share=0.25)
    with Counting() as counting:
        for _ in loader.epoch(0):
            pass
    assert counting.operations > 500 and counting.waits == []
    with Counting() as counting:
        torch.tensor([True, False])[torch.tensor([True, True])].any().item()
    assert counting.waits  # the count can count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("room", [1.0, 0.0])
def test_the_feed_of_a_gpu_equals_the_hosts_and_never_waits(room, monkeypatch):
    """With room for the images on the device, and streaming them from the host."""
    monkeypatch.setattr("lgkd.data.loader._SHARE_OF_FREE_MEMORY", room)
    settings = {"repeats": 2, "extra": make_images(9, 17, seed=1), "extra_share": 0.25}
    expected = list(make_loader(make_images(60), **settings).epoch(0))
    loader = make_loader(make_images(60), device="cuda", **settings)
    list(loader.epoch(1))
    found = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += loader.epoch(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (images, targets, index), (wanted, wanted_targets, places) in zip(
        map(parts, found), map(parts, expected), strict=True
    ):
        gap = (images.cpu() - wanted).abs() * 0.25 * 255
        assert (gap > 0.01).float().mean() < 0.01
        assert torch.allclose(targets.cpu(), wanted_targets) and torch.equal(index, places)
    assert not lgkd_threads()


def test_evaluation_sees_every_image_once_in_order():
    from lgkd.data.transforms.augment import Plain

    images = make_images(11)
    batches = [EvalLoader(images, Plain(12, **STATISTICS), batch_size=4, rank=rank, processes=2) for rank in range(2)]
    seen = torch.cat([pixels for part in batches for pixels, _ in part])
    assert torch.allclose(seen * 0.25 + 0.5, images.pixels / 255, atol=1e-6)
    assert torch.equal(torch.cat([labels for part in batches for _, labels in part]), images.labels)


def test_batches_that_are_drawn_together_are_those_that_are_drawn_one_by_one(monkeypatch):
    def batches():
        loaders = small_loader(small_images()), small_loader(small_images(), rank=1, processes=2)
        return [[*loader.epoch(2, 1)] for loader in loaders]

    together = batches()
    monkeypatch.setattr("lgkd.data.loader._PIXELS_AT_ONCE", 0)
    for ours, theirs in zip(together, batches(), strict=True):
        assert len(ours) == len(theirs) == 4 and all_equal(ours, theirs)
