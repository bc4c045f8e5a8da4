"""The whole pipeline: what it promises about chance, and timm's transforms as the oracle of its steps."""

import math
import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import functional

from lgkd.config import View
from lgkd.data.transforms import random_erasing
from lgkd.data.transforms.apply import apply_layer
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, Layer, strength_of
from lgkd.data.transforms.threads import one_thread
from lgkd.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRONG = View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25)


def stored(count: int, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(count)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8))
    return pixels, torch.tensor([[height, width]] * count), torch.arange(count) * 7 + 3


def levels(images: Tensor) -> Tensor:
    """Normalised images back to levels in [0, 255]."""
    return (images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255


def augment(view: View, size: int | tuple[int, int] = 32, seed: int = 0) -> Augment:
    return Augment(view, size, mean=MEAN, std=STD, seed=seed)


@pytest.mark.parametrize(
    "view",
    [
        STRONG,
        View(crop="pad", color_jitter=0.4, erase=1.0),
        View(crop="pad", padding=0.5, padding_mode="reflect"),
        View(interpolation="bilinear"),
    ],
)
@pytest.mark.parametrize("size", [32, 48, (20, 12)])
def test_a_sample_becomes_the_same_alone_in_a_batch_and_in_another_order(view, size):
    pixels, sizes, index = stored(60)
    sizes[::3] = torch.tensor([25, 31])
    make = augment(view, size)
    together = make(pixels, sizes, index, epoch=5)
    alone = torch.cat([make(pixels[[i]], sizes[[i]], index[[i]], epoch=5) for i in range(60)])
    order = torch.randperm(60)
    shuffled = make(pixels[order], sizes[order], index[order], epoch=5)
    assert torch.equal(together, alone)
    assert torch.equal(together[order], shuffled)


@pytest.mark.parametrize("size", [32, 160])
def test_how_many_threads_torch_has_does_not_change_a_byte(size):
    view = View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5)
    pixels, sizes, index = stored(23)
    make, made, before = augment(view, size), [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            made.append(make(pixels, sizes, index, 3))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_one_thread_draws_and_all_are_there_again_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="within"), one_thread(torch.device("cpu")):
            assert torch.get_num_threads() == 1
            raise ValueError("within")
        assert torch.get_num_threads() == 3
        with one_thread(torch.device("meta")):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_two_that_draw_at_once_leave_everybody_the_threads_that_were_there():
    before, barrier = torch.get_num_threads(), threading.Barrier(2, timeout=60)
    torch.set_num_threads(3)
    seen = []

    def overlapping(first):
        with one_thread(torch.device("cpu")):
            if first:
                barrier.wait()  # the other one comes in
                barrier.wait()  # and is gone
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    def other():
        barrier.wait()
        overlapping(False)
        barrier.wait()

    try:
        thread = threading.Thread(target=other)
        thread.start()
        overlapping(True)
        thread.join()
        assert sorted(seen) == [1, 1, 3, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_large_image_alone_becomes_what_it_becomes_in_a_batch(monkeypatch, kind, interpolation):
    rng = np.random.default_rng(kind)
    before = torch.from_numpy(rng.integers(0, 256, (5, 3, 130, 141), dtype=np.uint8))
    before[0] = before[0, :, :1, :1]  # a flat one
    for increasing in (False, True):
        level, sign = rng.uniform(0, 12, 5), rng.choice([-1.0, 1.0], 5)
        level[1:3] = 0, 10
        layer = Layer(np.full(5, kind), strength_of(KINDS[kind], level, sign, increasing))
        layer.kind[4] = UNTOUCHED
        made = []
        for large in (2**14, 2**30):
            monkeypatch.setattr("lgkd.data.transforms.color_cpu.LARGE", large)
            made.append(before.clone())
            apply_layer(made[-1], layer, (1, 130, 255), interpolation)
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0][4], before[4])


def test_images_moved_out_of_sight_alone_are_all_fill():
    before = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    for name in ("translate_x", "translate_y"):
        layer = Layer(np.full(2, KINDS.index(name)), np.asarray([1.5, -1.0]))
        changed = before.clone()
        apply_layer(changed, layer, (3, 4, 5), "bicubic")
        assert torch.equal(changed, torch.tensor([3, 4, 5], dtype=torch.uint8)[None, :, None, None].expand_as(changed))


def test_seed_epoch_and_place_each_change_what_is_drawn():
    pixels, sizes, index = stored(8)
    base = augment(STRONG)(pixels, sizes, index, 0)
    assert torch.equal(base, augment(STRONG)(pixels, sizes, index, 0))
    assert not torch.equal(base, augment(STRONG)(pixels, sizes, index, 1))
    assert not torch.equal(base, augment(STRONG)(pixels, sizes, index + 1, 0))
    assert not torch.equal(base, augment(STRONG, seed=1)(pixels, sizes, index, 0))


def test_copies_of_one_image_in_a_batch_all_become_different():
    pixels, sizes, _ = stored(1)
    many = augment(STRONG)(pixels.expand(16, -1, -1, -1), sizes.expand(16, -1), torch.arange(16), 0)
    assert len({image.numpy().tobytes() for image in many}) == 16


def test_switching_one_step_on_leaves_the_draws_of_the_others():
    pixels, sizes, index = stored(40)
    plain = augment(View())(pixels, sizes, index, 0)
    erased = augment(View(erase=0.5))(pixels, sizes, index, 0)
    unmoved = (plain == erased).all(1)
    assert 0.6 < unmoved.float().mean() < 1.0  # whatever was not erased is as it was
    untouched = unmoved.flatten(1).all(1)
    assert 8 < int(untouched.sum()) < 32
    strong = augment(View(rand_augment="rand-m9-p0.0-inc1"))(pixels, sizes, index, 0)
    assert torch.equal(strong, plain)


def test_as_in_timm_colour_jitter_is_off_where_rand_augment_is_on():
    pixels, sizes, index = stored(20)
    with_jitter = augment(View(rand_augment="rand-m9-inc1", color_jitter=0.4))(pixels, sizes, index, 0)
    assert torch.equal(with_jitter, augment(View(rand_augment="rand-m9-inc1"))(pixels, sizes, index, 0))


def test_nothing_drawn_equals_to_tensor_and_normalise():
    pixels, sizes, index = stored(4)
    result = augment(View(crop="none", flip=0.0))(pixels, sizes, index, 0)
    # One multiplication and addition against torchvision's two divisions and a subtraction.
    expected = functional.normalize(pixels.float() / 255, MEAN, STD)
    assert torch.allclose(result, expected, atol=2e-6, rtol=0)
    assert result.dtype == torch.float32 and result.is_contiguous()


def test_flips_happen_as_often_as_asked():
    pixels, sizes, _ = stored(1)
    index = torch.arange(2000)
    out = augment(View(crop="none", flip=0.3))(pixels.expand(2000, -1, -1, -1), sizes.expand(2000, -1), index, 0)
    straight = Plain(32, mean=MEAN, std=STD)(pixels, sizes)[0]
    flipped = (out == straight.flip(-1)).flatten(1).all(1)
    assert ((out == straight).flatten(1).all(1) ^ flipped).all()
    assert abs(float(flipped.float().mean()) - 0.3) < 0.04


def test_the_pad_crop_cuts_windows_out_of_the_zero_padded_image():
    pixels, sizes, index = stored(30)
    out = levels(augment(View(crop="pad", flip=0.0))(pixels, sizes, index, 0)).round()
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4)).float()
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # (B, 3, 9, 9, 32, 32)
    found = (windows == out[:, :, None, None]).flatten(-2).all(-1).all(1).flatten(1)
    assert (found.sum(1) == 1).all()
    assert len(set(found.int().argmax(1).tolist())) > 15


@pytest.mark.parametrize("padding", [0.0, 0.125, 31 / 32, 1.0])
def test_the_padding_mode_fills_the_same_windows_by_reflection(padding):
    pixels, sizes, index = stored(30, 32, 20)
    sizes[::3], sizes[1::3] = torch.tensor([17, 20]), torch.tensor([1, 9])
    black, mirrored = (
        augment(View(crop="pad", padding=padding, flip=0.3, padding_mode=mode), (32, 20))
        for mode in ("constant", "reflect")
    )
    boxes, flips = mirrored.crops(sizes, index, 2)
    assert (boxes == black.crops(sizes, index, 2)[0]).all() and (boxes[:, :2] != 0).any() == (padding > 0)
    assert 0 < flips.sum() < 30
    for mode, make in (("constant", black), ("reflect", mirrored)):
        out = make(pixels, sizes, index, 2)
        for place, (top, left, height, width) in enumerate(boxes):
            image = pixels[place, :, : sizes[place, 0], : sizes[place, 1]].numpy()
            padded = np.pad(image, ((0, 0), (32, 32), (20, 20)), mode=mode)
            window = padded[:, 32 + top : 32 + top + height, 20 + left : 20 + left + width].copy()
            expected = Plain((32, 20), mean=MEAN, std=STD)(torch.from_numpy(window)[None], sizes[[place]])[0]
            assert torch.equal(out[place], expected.flip(-1) if flips[place] else expected)


def test_padding_is_black_unless_a_mode_is_named():
    pixels, sizes, index = stored(40)
    black = augment(View(crop="pad"))(pixels, sizes, index, 0)
    assert torch.equal(black, augment(View(crop="pad", padding_mode="constant"))(pixels, sizes, index, 0))
    assert not torch.equal(black, augment(View(crop="pad", padding_mode="reflect"))(pixels, sizes, index, 0))
    for crop in ("none", "random-resized"):
        one, other = (augment(View(crop=crop, padding_mode=mode)) for mode in ("constant", "reflect"))
        assert torch.equal(one(pixels, sizes, index, 0), other(pixels, sizes, index, 0))


def test_crops_stay_within_each_images_own_valid_area():
    pixels = torch.full((50, 3, 40, 40), 255, dtype=torch.uint8)
    sizes = torch.tensor([[17, 40], [40, 9], [3, 3], [1, 1], [40, 40]] * 10)
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        image[:, :height, :width] = 60
    for view in (View(), View(crop="none")):
        assert torch.equal(
            levels(augment(view)(pixels, sizes, torch.arange(50), 0)).round().unique(), torch.tensor([60.0])
        )
    reflected = augment(View(crop="pad", padding_mode="reflect"))(pixels, sizes, torch.arange(50), 0)
    assert torch.equal(levels(reflected).round().unique(), torch.tensor([60.0]))
    padded = levels(augment(View(crop="pad"))(pixels, sizes, torch.arange(50), 0)).round()
    assert padded.max() <= 80  # bicubic overshoot at the black border's corners, and nothing of the 255 beyond


def test_plain_equals_pillows_resize_of_the_valid_area():
    pixels, sizes, _ = stored(3, 40, 50)
    sizes[1], sizes[2] = torch.tensor([23, 50]), torch.tensor([31, 7])
    for interpolation, method in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        out = levels(Plain((24, 28), mean=MEAN, std=STD, interpolation=interpolation)(pixels, sizes))
        for image, (height, width), result in zip(pixels, sizes.tolist(), out, strict=True):
            picture = Image.fromarray(image[:, :height, :width].permute(1, 2, 0).numpy())
            # In two steps, so that the horizontal pass comes first in every Pillow.
            resized = picture.resize((28, height), method).resize((28, 24), method)
            gap = (result.permute(1, 2, 0) - torch.from_numpy(np.array(resized)).float()).abs()
            assert gap.max() < 2.01 and (gap > 0.5).float().mean() < 0.12


def test_plain_keeps_levels_of_images_that_have_the_size():
    pixels, sizes, _ = stored(2, 40, 40)
    sizes[:] = 32
    straight = Plain(32, mean=MEAN, std=STD)(pixels, sizes)
    mixed_sizes = torch.tensor([[32, 32], [20, 40]])
    assert torch.equal(levels(straight).round(), pixels[:, :, :32, :32].float())
    assert torch.equal(Plain(32, mean=MEAN, std=STD)(pixels, mixed_sizes)[0], straight[0])


def test_erased_boxes_are_distributed_like_timms():
    random.seed(3)
    theirs = []
    eraser = RandomErasing(0.5, mode="pixel", device="cpu")
    for _ in range(3000):
        touched = (eraser(torch.zeros(1, 32, 32))[0] != 0).nonzero()
        if len(touched):
            (top, left), (bottom, right) = touched.amin(0).tolist(), touched.amax(0).tolist()
            theirs.append([top, left, bottom - top + 1, right - left + 1])
    draws = np.random.default_rng(4).random((3000, random_erasing.ERASE_DRAWS))
    places, boxes = random_erasing.erase_boxes(draws, (32, 32), 0.5)
    assert abs(len(places) - 1500) < 120 and abs(len(theirs) - 1500) < 120
    for column in range(4):
        assert stats.ks_2samp(boxes[:, column], np.array(theirs)[:, column]).pvalue > 1e-3, column


def test_erasing_fills_exactly_the_box_with_noise():
    images = torch.zeros(5, 3, 20, 24)
    places, boxes = np.array([1, 4]), np.array([[2, 3, 5, 7], [0, 0, 19, 23]])
    random_erasing.erase(images, places, boxes, np.array([7, 8]))
    expected = torch.zeros(5, 20, 24, dtype=torch.bool)
    expected[1, 2:7, 3:10] = True
    expected[4, :19, :23] = True
    assert torch.equal((images != 0).all(1), expected)
    assert torch.equal((images != 0).any(1), expected)


def test_large_boxes_get_the_noise_that_all_boxes_together_get(monkeypatch):
    draws = np.random.default_rng(1).random((6, random_erasing.ERASE_DRAWS))
    places, boxes = random_erasing.erase_boxes(draws, (80, 96), 1.0)
    keys = np.random.default_rng(2).integers(0, 2**32, len(places))
    one_by_one, together = torch.zeros(6, 3, 80, 96), torch.zeros(6, 3, 80, 96)
    random_erasing.erase(one_by_one, places, boxes, keys)
    monkeypatch.setattr(random_erasing, "_LARGE", 2**30)
    random_erasing.erase(together, places, boxes, keys)
    assert len(places) > 3 and (boxes[:, 2] * boxes[:, 3]).max() * 3 > 2**11
    assert torch.equal(one_by_one, together)


def test_noise_is_standard_normal_and_uncorrelated():
    keys = torch.tensor([3, 3_000_000_000, 77, 78])[:, None]
    drawn = random_erasing.noise(keys, torch.arange(50_000)[None])
    assert drawn.isfinite().all()
    for row in drawn:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(drawn[:, :-1].flatten(), drawn[:, 1:].flatten())[0, 1]
    assert abs(neighbours) < 0.01
    across = np.corrcoef(drawn.numpy()) - np.eye(4)
    assert np.abs(across).max() < 0.02
    assert math.isclose(float(drawn.std()), 1.0, abs_tol=0.01)


def test_noise_is_the_same_to_the_bit_whatever_it_is_drawn_with():
    keys, counters = torch.arange(3000) % 7, torch.arange(3000)
    together = random_erasing.noise(keys, counters)
    for first, last in ((0, 1), (5, 9), (17, 34), (64, 2049), (2999, 3000)):
        assert torch.equal(random_erasing.noise(keys[first:last], counters[first:last]), together[first:last])


def test_levels_of_the_noise_are_the_quantiles_of_equal_shares():
    levels = random_erasing._quantiles(torch.device("cpu")).double()
    assert len(levels) == 65_536 and torch.equal(levels, -levels.flip(0))
    wanted = stats.norm.ppf((np.arange(65_536) + 0.5) / 65_536)
    assert np.abs(levels.numpy() - wanted).max() < 1e-6
    assert levels.max() < 4.4


def test_one_layer_of_the_strong_policy_equals_its_operations_through_timm():
    from timm.data import auto_augment as oracle

    from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, parse

    functions = {"rotate": oracle.rotate, "shear_x": oracle.shear_x, "shear_y": oracle.shear_y,
                 "translate_x": oracle.translate_x_rel, "translate_y": oracle.translate_y_rel,
                 "posterize": oracle.posterize, "solarize": oracle.solarize, "solarize_add": oracle.solarize_add,
                 "colour": oracle.color, "contrast": oracle.contrast, "brightness": oracle.brightness,
                 "sharpness": oracle.sharpness}  # fmt: skip
    plain = {"autocontrast": oracle.auto_contrast, "equalize": oracle.equalize, "invert": oracle.invert}
    pixels, sizes, index = stored(150)
    view = View(crop="none", flip=0.0, rand_augment="rand-m9-n1-mstd0.5-inc1-p1.0")
    make = augment(view)
    out = levels(make(pixels, sizes, index, 2))
    layer = parse(view.rand_augment or "").draw(make._draws("policy", index, 2, 5))[0]
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": (124, 116, 104)}
    assert (layer.kind != UNTOUCHED).all() and set(layer.kind) == set(range(len(KINDS)))
    for image, kind, strength, result in zip(pixels, layer.kind, layer.strength, out, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        name = KINDS[kind]
        if name in plain:
            expected = plain[name](picture)
        else:
            whole = name in ("posterize", "solarize", "solarize_add")
            expected = functions[name](picture, int(strength) if whole else strength, **options)
        gap = (result.permute(1, 2, 0) - torch.from_numpy(np.array(expected)).float()).abs().max()
        assert gap < 1.01, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.1, 1.5)}, "View: scale.1 must be <= 1 (got 1.5)"),
        (
            {"scale": (0.9, 0.1)},
            "scale must be [smallest, largest]; the first is greater than the second (got [0.9, 0.1])",
        ),
        ({"ratio": (0.0, 1.0)}, "ratio.0 must be >= 0.01 (got 0.0)"),
        ({"flip": 1.1}, "flip must be <= 1 (got 1.1)"),
        ({"erase": float("nan")}, "erase must be a finite number (got nan)"),
        ({"color_jitter": -1}, "color_jitter must be >= 0 (got -1)"),
        ({"padding": 2}, "padding must be <= 1 (got 2)"),
        ({"padding_mode": "edge"}, "padding_mode must be 'constant' or 'reflect' (got 'edge')"),
        ({"crop": "centre"}, "crop must be 'random-resized', 'pad' or 'none' (got 'centre')"),
        ({"interpolation": "nearest"}, "interpolation must be 'bicubic' or 'bilinear' (got 'nearest')"),
        ({"rand_augment": "rand-x1"}, "cannot read 'x1'"),
    ],
)
def test_nonsense_settings_are_refused_with_field_value_and_range(settings, message):
    with pytest.raises(InputError) as caught:
        View(**settings)
    assert message in str(caught.value)


def test_other_nonsense_is_refused():
    pixels, sizes, index = stored(2)
    with pytest.raises(InputError, match="image_size is 0"):
        augment(View(), 0)
    with pytest.raises(InputError, match=r"std\[1\] is 0"):
        Augment(View(), 8, mean=MEAN, std=(1.0, 0.0, 1.0), seed=0)
    with pytest.raises(
        InputError, match=r"(mean|std) has \d numbers; expected 3, for red, green and blue, or 1 for grey levels"
    ):
        Plain(8, mean=(0.5,), std=STD)
    with pytest.raises(InputError, match="interpolation is 'nearest'; expected one of bicubic, bilinear"):
        Plain(8, mean=MEAN, std=STD, interpolation="nearest")
    make = augment(View())
    with pytest.raises(InputError, match="pixels are"):
        make(pixels.float(), sizes, index, 0)
    with pytest.raises(InputError, match=r"index has shape \(1,\)"):
        make(pixels, sizes, index[:1], 0)
    with pytest.raises(InputError, match="has the size 33 x 32; expected at least 1 x 1"):
        make(pixels, sizes + torch.tensor([1, 0]), index, 0)
    assert make(pixels[:0], sizes[:0], index[:0], 0).shape == (0, 3, 32, 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_draws_what_the_host_draws_without_synchronising():
    pixels, sizes, index = stored(256)
    make = augment(STRONG)
    expected = make(pixels, sizes, index, 1)
    on_device = pixels.cuda()
    make(on_device, sizes, index, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = make(on_device, sizes, index, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gap = (levels(result.cpu()) - levels(expected)).abs()
    assert (gap > 0.01).float().mean() < 0.01
