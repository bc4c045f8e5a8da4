"""Cached guidance: what a teacher said once is what it would say again, or the difference is said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.config import Mix, Optimizer
from lgkd.data.transforms.mixup import Mixing, cut_boxes
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.distillation.tasks import Batch
from lgkd.distillation.teacher_cache.lookup import measure
from lgkd.distillation.teacher_cache.replay import mix, replay
from lgkd.distillation.teacher_cache.storage import Layout, Writer, difference
from lgkd.distillation.teacher_cache.writer import check_size
from lgkd.errors import BusyError, InputError, NonFiniteError
from lgkd.training.loop import fit
from tests.support.teacher_cache import (
    VIEWS,
    augment,
    looked_up,
    make_loader,
    make_task,
    pixelwise_guide,
    whole_images,
    write,
)
from tests.support.training import make_images, make_plan


class Watched:
    """Counts how often a teacher is run."""

    runs = 0

    def count(self, guide: Guide) -> None:
        teach = guide.teach

        def counted(images: Tensor) -> Features:
            self.runs += 1
            return teach(images)

        guide.teach = counted  # type: ignore[method-assign]


# ------------------------------------------------------------------ views


def test_a_training_from_a_cache_is_the_training_with_the_teacher_on_the_same_views(tmp_path: Path) -> None:
    images, drawn = make_images(), augment()
    online, served = make_task(), make_task()
    cache = write(tmp_path / "cache", served.guide, images, drawn)
    watched = Watched()
    watched.count(served.guide)
    # Not AdamW: it makes whole steps of gradients that are rounding errors, such as a bias' before a BatchNorm.
    plan = make_plan(ema=None, optimizer=Optimizer("sgd", lr=0.05, weight_decay=0.0))
    rows, steps = {}, []
    for name, task, lookup in (
        ("online", online, None),
        ("cached", served, looked_up(cache, served.guide, images, drawn)),
    ):
        rows[name] = fit(task, make_loader(images, drawn), plan, lookup=lookup)
        steps.append([parameter.detach() for parameter in task.parameters()])
    assert watched.runs == 0
    for ours, theirs in zip(*steps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for ours, theirs in zip(rows["online"], rows["cached"], strict=True):
        assert ours.train == pytest.approx(theirs.train, abs=1e-6)
    untaught = make_task()
    moved = max(float((a - b.detach()).abs().max()) for a, b in zip(steps[0], untaught.parameters(), strict=True))
    assert moved > 0.01


def test_fixed_views_come_again_and_differ_from_each_other() -> None:
    images, drawn, always = make_images(), augment(), augment(fixed=None)
    index = torch.arange(len(images))
    seen = [drawn(images.pixels, images.sizes, index, epoch) for epoch in range(2 * VIEWS)]
    for epoch in range(VIEWS):
        assert torch.equal(seen[epoch], seen[epoch + VIEWS])
        assert torch.equal(seen[epoch], always(images.pixels, images.sizes, index, epoch))
    assert not torch.equal(seen[0], seen[1])
    first, second = (next(iter(make_loader(images, drawn).epoch(epoch))).index for epoch in (0, VIEWS))
    assert not torch.equal(first, second)


def test_a_cache_of_padded_crops_serves_their_padding_mode_and_no_other(tmp_path: Path) -> None:
    images, guide = make_images(), make_task().guide
    changes = {"crop": "pad", "padding": 0.5, "rand_augment": None, "erase": 0.0}
    mirrored, black = (augment(padding_mode=mode, **changes) for mode in ("reflect", "constant"))
    cache = write(tmp_path / "cache", guide, images, mirrored)
    (errors,) = measure(looked_up(cache, guide, images, mirrored), [guide], make_loader(images, mirrored))
    assert max(errors.values()) < 1e-5
    (errors,) = measure(looked_up(cache, guide, images, mirrored), [guide], make_loader(images, black))
    assert min(errors.values()) > 0.01


def test_half_precision_is_as_far_off_as_its_digits_are_few(tmp_path: Path) -> None:
    images, drawn, task = make_images(), augment(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, drawn, storage="fp16")
    (errors,) = measure(looked_up(cache, task.guide, images, drawn), [task.guide], make_loader(images, drawn))
    assert list(errors) == ["map1", "map2", "map3", "logits"]
    # A number is rounded by at most 2^-11 of itself, by about 0.58 of that on average over a binade.
    assert all(5e-5 < error < 2**-11 for error in errors.values())


def test_a_batch_is_cut_with_what_is_known_of_it(tmp_path: Path) -> None:
    images, drawn, task = make_images(), augment(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, drawn)
    index = torch.tensor([5, 1, 40, 7, 11])
    (taught,) = looked_up(cache, task.guide, images, drawn)(index, 3)
    assert taught is not None
    parts = Batch(torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64), taught=(taught, None)).split(2)
    for part, wanted in zip(parts, ([5, 1, 40], [7, 11]), strict=True):
        known, nothing = part.taught
        assert nothing is None and known is not None
        for place, got in enumerate(known.maps):
            expected = cache.arrays[f"map{place + 1}"][3 % VIEWS][wanted]
            assert np.array_equal(got.numpy(), expected)
        assert np.array_equal(known.logits.numpy(), cache.arrays["logits"][3 % VIEWS][wanted])


def test_nothing_is_read_for_terms_that_have_ended(tmp_path: Path) -> None:
    images, drawn, task = make_images(), augment(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, drawn)
    lookup = looked_up(cache, task.guide, images, drawn)
    for course in task.guide.term_states.values():
        course.ended = 1
    assert lookup(torch.arange(3), 0) == (None,)


# ------------------------------------------------------------------ replay


def test_replaying_the_whole_box_changes_nothing_and_a_mirror_mirrors() -> None:
    maps = torch.randn(3, 4, 5, 6)
    boxes, sizes = np.array([[0, 0, 30, 40]] * 3), np.array([[30, 40]] * 3)
    torch.testing.assert_close(replay(maps, boxes, np.zeros(3, bool), sizes), maps, rtol=0, atol=1e-5)
    some = replay(maps, boxes, np.array([True, False, True]), sizes)
    torch.testing.assert_close(some[0::2], maps[0::2].flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(some[1], maps[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_box_on_the_grid_is_a_crop_and_a_resize(mirrored: bool) -> None:
    maps = torch.randn(2, 3, 8, 8)
    # 4 pixels a cell: rows 2 to 7, columns 1 to 4 of the first; a single cell of the second.
    boxes, sizes = np.array([[8, 4, 20, 12], [16, 28, 4, 4]]), np.array([[32, 32], [32, 32]])
    found = replay(maps, boxes, np.array([mirrored] * 2), sizes)
    expected = F.interpolate(maps[:1, :, 2:7, 1:4], size=(8, 8), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found[0], expected.flip(2) if mirrored else expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], maps[1, :, 4:5, 7:8].expand(-1, 8, 8), rtol=0, atol=1e-5)


def test_replayed_flips_are_what_a_pixelwise_teacher_says_of_flipped_images(tmp_path: Path) -> None:
    images, guide = make_images(), pixelwise_guide()
    cache = write(tmp_path / "cache", guide, images, whole_images, mode="replay")
    drawn = augment(crop="none", rand_augment=None, erase=0.0, fixed=None)
    (errors,) = measure(looked_up(cache, guide, images, drawn), [guide], make_loader(images, drawn))
    assert errors["map1"] < 1e-5
    unmoved = looked_up(cache, guide, images, augment(crop="none", flip=0.0, rand_augment=None, erase=0.0))
    (errors,) = measure(unmoved, [guide], make_loader(images, drawn))
    assert errors["map1"] > 0.1


def test_replayed_crops_differ_from_the_cropped_images_by_rounding_to_whole_levels(tmp_path: Path) -> None:
    images, guide = make_images(), pixelwise_guide()
    cache = write(tmp_path / "cache", guide, images, whole_images, mode="replay")
    drawn = augment(interpolation="bilinear", rand_augment=None, erase=0.0, fixed=None)
    (errors,) = measure(looked_up(cache, guide, images, drawn), [guide], make_loader(images, drawn))
    assert errors["map1"] < 5 / 255


def test_what_replay_cannot_follow_is_measured(tmp_path: Path) -> None:
    images, task = make_images(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, whole_images, mode="replay")
    drawn = augment(fixed=None)
    lookup, loader = looked_up(cache, task.guide, images, drawn), make_loader(images, drawn)
    (errors,) = measure(lookup, [task.guide], loader)
    wrong, whole = 0.0, 0.0
    for batch in loader.epoch(0):
        assert batch.index is not None
        (ours,), theirs = lookup(batch.index, 0), task.guide.teach(batch.images)
        assert ours is not None
        wrong += float((ours.maps[1] - theirs.maps[1]).double().norm() ** 2)
        whole += float(theirs.maps[1].double().norm() ** 2)
    assert errors["map2"] == pytest.approx((wrong / whole) ** 0.5, rel=1e-5)
    assert errors["map2"] > 0.1


# ------------------------------------------------------------------ mixing


def test_cutmix_pastes_maps_and_mixup_mixes_them_as_the_images_were(tmp_path: Path) -> None:
    images, guide, drawn = make_images(), pixelwise_guide(), augment()
    cache = write(tmp_path / "cache", guide, images, drawn)
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, seed=3)
    lookup, loader = looked_up(cache, guide, images, drawn, mixing), make_loader(images, drawn, mixing)
    (errors,) = measure(lookup, [guide], loader)
    assert errors["map1"] < 1e-5
    (unmixed,) = measure(looked_up(cache, guide, images, drawn), [guide], loader)
    assert unmixed["map1"] > 0.1


def test_a_cell_keeps_the_share_of_its_pixels_that_is_kept() -> None:
    (box,) = cut_boxes(np.array([0.75]), (8, 8), np.array([0.4]), np.array([0.2]))
    kept = torch.ones(1, 1, 8, 8)
    kept[:, :, box[0] : box[1], box[2] : box[3]] = 0
    one, other = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    found = mix(one, other, kept)
    for row in range(4):
        for column in range(4):
            cell = kept[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert found[0, 0, row, column].item() == pytest.approx(cell.mean().item())
    assert mix(torch.ones(1, 5), torch.zeros(1, 5), kept)[0].tolist() == pytest.approx([kept.mean().item()] * 5)


# ------------------------------------------------------------------ folders


def test_a_cache_that_was_stopped_goes_on_and_is_the_same(tmp_path: Path) -> None:
    images, drawn, task = make_images(), augment(), make_task()
    whole = write(tmp_path / "whole", task.guide, images, drawn)

    def stops(done: int, total: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", task.guide, images, drawn, progress=stops)
    assert not (tmp_path / "cache").exists()
    part = tmp_path / ".cache.part"
    with (part / "map1.npy").open("ab") as file:
        file.write(b"half a row")
    cache = write(tmp_path / "cache", task.guide, images, drawn, progress=lambda done, _: seen.append(done))
    assert seen[0] > 50 and seen[-1] == VIEWS * len(images) and not part.exists()
    for name, array in whole.arrays.items():
        assert np.array_equal(array, cache.arrays[name])
        assert (tmp_path / "cache" / f"{name}.npy").read_bytes() == (tmp_path / "whole" / f"{name}.npy").read_bytes()


def test_a_stopped_cache_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    images, task = make_images(), make_task()
    layout = Layout(task.guide.teaches, VIEWS, len(images), "fp32")
    writer = Writer(tmp_path / "cache", {"mode": "views", "seed": 1}, layout, {})
    rows = {name: np.zeros((3, *shape), np.float32) for name, shape in layout.shapes.items()}
    writer.add(rows)
    writer.record()
    with pytest.raises(BusyError, match="is being written by another process"):
        Writer(tmp_path / "cache", {"mode": "views", "seed": 1}, layout, {})
    writer.close()
    again = Writer(tmp_path / "cache", {"mode": "views", "seed": 1}, layout, {})
    assert again.done == 3
    again.close()
    other = Writer(tmp_path / "cache", {"mode": "views", "seed": 2}, layout, {})
    assert other.done == 0
    other.close()


def test_the_first_difference_is_named_with_both_values() -> None:
    assert difference({"seed": 1, "data": "x"}, {"seed": 1, "data": "x"}) is None
    assert difference({"seed": 1}, {"seed": 2}) == "seed: the cache has 1, this training 2"
    assert difference({"seed": 1, "old": 3}, {"seed": 1}) == "old: the cache has 3, this training null"


def test_the_size_is_known_before_and_a_cap_refuses(tmp_path: Path) -> None:
    # ResNet-56 at 32 px: 16 x 32 x 32 + 32 x 16 x 16 + 64 x 8 x 8 numbers of two bytes.
    layout = Layout({"map1": (16, 32, 32), "map2": (32, 16, 16), "map3": (64, 8, 8)}, 10, 50_000)
    assert layout.bytes == 10 * 50_000 * 57_344
    with pytest.raises(InputError, match=r"would take 28.7 GB \(10 x 50,000 images\), --max-gb is 20"):
        check_size(layout, tmp_path, 20)
    huge = Layout({"map1": (2**20, 2**10, 2**10)}, 1000, 10**6)
    with pytest.raises(InputError, match="GB left"):
        check_size(huge, tmp_path / "not" / "there", None)
    images, drawn, task = make_images(12), augment(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, drawn)
    headers = sum(file.stat().st_size for file in cache.folder.glob("*.npy")) - cache.layout.bytes
    assert 0 < headers <= 128 * len(cache.arrays)


@pytest.mark.parametrize(
    ("factor", "error", "message"),
    [
        (1e9, InputError, "beyond the largest fp16; use --storage fp32"),
        (float("nan"), NonFiniteError, "is not finite for some image and cannot be"),
    ],
)
def test_what_fp16_cannot_hold_is_not_written(
    tmp_path: Path, factor: float, error: type[Exception], message: str
) -> None:
    images, guide = make_images(12), pixelwise_guide()
    teach: Callable[[Tensor], Features] = guide.teach

    def loud(shown: Tensor) -> Features:
        said = teach(shown)
        return said._replace(maps=[values * factor for values in said.maps])

    guide.teach = loud  # type: ignore[method-assign]
    with pytest.raises(error, match=message):
        write(tmp_path / "cache", guide, images, whole_images, mode="replay", storage="fp16")
    assert not (tmp_path / "cache").exists()
