"""Boxes, resampling and warps against Pillow and torchvision."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import RandomCrop

from lgkd.data.transforms import affine, resized_crop

FILL = (124, 116, 104)
PIL_FILTER = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def smooth(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with slow changes, where an error of position shows less and an error of level shows more."""
    coarse = noise(count, 4, 4, seed).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def gaps(mine: Tensor, theirs: list[Image.Image]) -> Tensor:
    return (mine.int() - torch.stack([from_pil(image) for image in theirs]).int()).abs()


def resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Pillow's resize, horizontal pass first: Pillow 13 takes the vertical one first where that is cheaper."""
    height, width = size
    across = image.resize((width, image.height), PIL_FILTER[interpolation])
    return across.resize((width, height), PIL_FILTER[interpolation])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (70, 9), (100, 100), (1, 1)])
def test_resampling_equals_pillow_on_crops_to_rare_single_levels(size, interpolation):
    pixels = noise(9, 37, 41)
    boxes = np.array(
        [[0, 0, 37, 41], [5, 3, 20, 30], [0, 0, 1, 1], [36, 40, 1, 1], [0, 10, 37, 2], [30, 0, 7, 41], [1, 1, 32, 32],
         [2, 4, 16, 24], [3, 3, 5, 7]]
    )  # fmt: skip
    expected = [
        resized(as_pil(image[:, top : top + height, left : left + width]), size, interpolation)
        for image, (top, left, height, width) in zip(pixels, boxes, strict=True)
    ]
    gap = gaps(resized_crop.resample(pixels, boxes, size, interpolation), expected)
    # Weights of 15 bits instead of Pillow's 22: a sum near a half may round the other way, in each pass.
    assert gap.max() <= 2
    assert (gap > 0).float().mean() < 0.02


def test_resampling_to_the_same_size_changes_nothing():
    pixels = noise(3, 24, 31)
    boxes = resized_crop.whole_boxes(np.array([[24, 31]] * 3))
    for interpolation in ("bicubic", "bilinear"):
        assert torch.equal(resized_crop.resample(pixels, boxes, (24, 31), interpolation), pixels)


def test_weights_of_every_output_pixel_sum_to_one_exactly():
    start, length = np.array([0, 3, 30]), np.array([33, 17, 1])
    for out in (5, 33, 64):
        taps = resized_crop.taps_of(start, length, 33, out, "bicubic", torch.device("cpu"))
        matrix = resized_crop.interpolation_matrix(*taps, 33)
        assert torch.equal(matrix.sum(1), torch.ones(3, out))
        assert matrix.abs().sum(1).max() * 255 * 2**15 < 2**24  # what makes sums exact in float32


def test_mirroring_equals_flipping_the_result():
    pixels = noise(2, 20, 20)
    boxes = np.array([[2, 3, 15, 11], [0, 0, 20, 20]])
    plain = resized_crop.resample(pixels, boxes, (16, 28), "bicubic")
    mirrored = resized_crop.resample(pixels, boxes, (16, 28), "bicubic", np.array([True, False]))
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    assert torch.equal(mirrored[1], plain[1])


def test_boxes_that_reach_outside_read_black_there():
    pixels = noise(2, 8, 8)
    padded = torch.nn.functional.pad(pixels, (3, 3, 3, 3))
    boxes = np.array([[-3, 2, 8, 8], [1, -1, 8, 8]])
    same_size = resized_crop.resample(pixels, boxes, (8, 8), "bicubic")
    larger = resized_crop.resample(pixels, boxes, (20, 13), "bicubic")
    for place, (top, left, height, width) in enumerate(boxes):
        cut = padded[place, :, top + 3 : top + 3 + height, left + 3 : left + 3 + width]
        assert torch.equal(same_size[place], cut)
        expected = resized(as_pil(cut), (20, 13), "bicubic")
        assert gaps(larger[place : place + 1], [expected]).max() <= 2


class At(RandomCrop):
    """torchvision's random crop at given shifts."""

    def __init__(self, reach: int, size: tuple[int, int], at: tuple[int, int]) -> None:
        super().__init__(size, padding=reach, padding_mode="reflect")
        self.get_params = lambda img, output_size: (*at, *output_size)  # type: ignore[method-assign]


@pytest.fixture(params=["in a batch", "one by one"])
def way(request, monkeypatch):
    """Both ways of resampling on a CPU: products over a batch, and bands of one large image after the other."""
    monkeypatch.setattr("lgkd.data.transforms.device._PORTION_CPU", 2**24 if request.param == "in a batch" else 1)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 9), (9, 4), (2, 3)])
def test_reflected_windows_are_those_of_torchvision_at_every_shift(way, height, width):
    reach = min(height, width) - 1  # as far as torchvision pads a tensor
    shifts = [(top, left) for top in range(2 * reach + 1) for left in range(2 * reach + 1)]
    pixels = noise(len(shifts), height, width)
    boxes = np.array([[top - reach, left - reach, height, width] for top, left in shifts])
    found = resized_crop.resample(pixels, boxes, (height, width), "bicubic", reflect=True)
    for place, shift in enumerate(shifts):
        assert torch.equal(found[place], At(reach, (height, width), shift)(pixels[place]))


@pytest.mark.parametrize("size", [(70, 90), (33, 64), (100, 17)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_reflected_windows_are_resized_as_windows_that_numpy_padded(way, size, interpolation):
    rng, count = np.random.default_rng(3), 12
    pixels, mirrored = noise(count, 70, 90), rng.random(count) < 0.5
    valid = np.array([[70, 90], [41, 90], [70, 1], [1, 60], [2, 2], [69, 33]] * 2)
    start = np.rint(rng.uniform(-1, 1, (count, 2)) * valid).astype(np.int64)
    start[0], start[6] = (-70, 90), (69, -89)
    boxes = np.concatenate([start, valid], axis=1)
    found = resized_crop.resample(pixels, boxes, size, interpolation, mirrored, valid, reflect=True)
    for place, (top, left, height, width) in enumerate(boxes):
        image = pixels[place, :, :height, :width].numpy()
        padded = np.pad(image, ((0, 0), (height, height), (width, width)), mode="reflect")
        window = padded[:, height + top : 2 * height + top, width + left : 2 * width + left].copy()
        whole = resized_crop.whole_boxes(valid[[place]])
        expected = resized_crop.resample(torch.from_numpy(window)[None], whole, size, interpolation)
        assert torch.equal(found[[place]], expected.flip(-1) if mirrored[place] else expected)


def test_weights_of_reflected_pixels_sum_to_one_exactly():
    start, length = np.array([-20, 13, 33]), np.array([33, 33, 33])
    for out in (5, 33, 64):
        taps = resized_crop.taps_of(start, length, 33, out, "bicubic", torch.device("cpu"), reflect=True)
        matrix = resized_crop.interpolation_matrix(*taps, 33)
        assert torch.equal(matrix.sum(1), torch.ones(3, out))
        assert matrix.abs().sum(1).max() * 255 * 2**15 < 2**24


def test_stored_pixels_beyond_the_valid_area_are_never_read():
    pixels = noise(1, 12, 12)
    cleared = pixels.clone()
    cleared[:, :, 9:], cleared[:, :, :, 7:] = 0, 0
    valid = np.array([[9, 7]])
    for top, left in ((2, 1), (-1, 3), (3, -2)):
        boxes = np.array([[top, left, 9, 7]])
        cut = resized_crop.resample(pixels, boxes, (9, 7), "bicubic", valid=valid)
        assert torch.equal(cut, resized_crop.resample(cleared, boxes, (9, 7), "bicubic"))
        one, other = (
            resized_crop.resample(each, boxes, (9, 7), "bicubic", valid=valid, reflect=True)
            for each in (pixels, cleared)
        )
        assert torch.equal(one, other) and not torch.equal(one, cut)


def test_resampling_does_not_depend_on_the_batch():
    pixels = noise(40, 32, 32)
    draws = np.random.default_rng(1).random((40, resized_crop.CROP_DRAWS))
    boxes = resized_crop.random_resized_boxes(np.full((40, 2), 32), draws, (0.08, 1.0), (0.75, 4 / 3))
    for size in ((32, 32), (50, 50), (10, 10)):
        together = resized_crop.resample(pixels, boxes, size, "bicubic")
        alone = [resized_crop.resample(pixels[i : i + 1], boxes[i : i + 1], size, "bicubic") for i in range(40)]
        assert torch.equal(together, torch.cat(alone))


def test_random_boxes_lie_inside_and_have_the_areas_and_shapes_asked_for():
    sizes = np.array([[32, 32], [200, 150], [48, 300]]).repeat(700, axis=0)
    draws = np.random.default_rng(0).random((len(sizes), resized_crop.CROP_DRAWS))
    boxes = resized_crop.random_resized_boxes(sizes, draws, (0.2, 0.5), (0.75, 4 / 3))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    large = slice(700, 1400)
    share = boxes[large, 2] * boxes[large, 3] / (200 * 150)
    shape = boxes[large, 3] / boxes[large, 2]
    assert share.min() > 0.19 and share.max() < 0.51
    assert shape.min() > 0.72 and shape.max() < 1.37


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 40), (20, 90)])
def test_random_boxes_are_distributed_like_timms(height, width):
    import random

    random.seed(5)
    image = Image.new("RGB", (width, height))
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    theirs = np.array([RandomResizedCropAndInterpolation.get_params(image, scale, ratio) for _ in range(4000)])
    draws = np.random.default_rng(6).random((4000, resized_crop.CROP_DRAWS))
    mine = resized_crop.random_resized_boxes(np.array([[height, width]] * 4000), draws, scale, ratio)
    for column in range(4):
        assert stats.ks_2samp(mine[:, column], theirs[:, column]).pvalue > 1e-3, column


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_the_box_is_centred_where_no_try_fits(height, width, box):
    draws = np.full((1, resized_crop.CROP_DRAWS), 0.999)
    boxes = resized_crop.random_resized_boxes(np.array([[height, width]]), draws, (1.0, 1.0), (3 / 4, 4 / 3))
    assert tuple(boxes[0]) == box


def test_padded_boxes_reach_an_eighth_outside_on_every_side():
    draws = np.random.default_rng(0).random((3000, 2))
    boxes = resized_crop.padded_boxes(np.full((3000, 2), 32), draws, 0.125)
    counts = np.bincount(boxes[:, 0] + 4, minlength=9)
    assert len(counts) == 9 and stats.chisquare(counts).pvalue > 1e-3
    assert (boxes[:, 2:] == 32).all()


def expected_rotation(image: Image.Image, degrees: float, interpolation: str) -> Image.Image:
    return auto_augment.rotate(image, degrees, resample=PIL_FILTER[interpolation], fillcolor=FILL)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (21, 34)])
def test_warps_equal_timm_on_pillow_to_rare_single_levels(height, width, make, interpolation):
    strength = np.array([0.0, 0.3, -0.3, 0.011, -0.17, 0.25])
    images = make(len(strength), height, width)
    none = np.zeros_like(strength)
    options = {"resample": PIL_FILTER[interpolation], "fillcolor": FILL}
    mine = {
        "rotate": affine.rotate(images, strength * 100, FILL, interpolation),
        "shear_x": affine.slide_x(images, strength, none, FILL, interpolation),
        "shear_y": affine.slide_y(images, strength, none, FILL, interpolation),
        "translate_x_rel": affine.slide_x(images, none, strength, FILL, interpolation),
        "translate_y_rel": affine.slide_y(images, none, strength, FILL, interpolation),
    }
    for name, result in mine.items():
        operation = getattr(auto_augment, name)
        factor = 100 if name == "rotate" else 1
        expected = [
            operation(as_pil(image), float(s) * factor, **options) for image, s in zip(images, strength, strict=True)
        ]
        gap = gaps(result, expected)
        # Both cut to levels. Where the value is a whole level (a fifth of all pixels when a bilinear image
        # moves by a fifth of a pixel), Pillow's doubles fall now on this side of it and now on that.
        assert gap.max() <= 1, name
        assert (gap > 0).float().mean() < (0.03 if interpolation == "bilinear" else 0.01), name


def test_whole_pixel_translations_are_exact_and_filled():
    images = noise(1, 8, 8)
    moved = affine.slide_x(images, np.zeros(1), np.array([0.25]), FILL, "bicubic")
    assert torch.equal(moved[..., :6], images[..., 2:])
    assert torch.equal(moved[0, :, 0, 7], torch.tensor(FILL, dtype=torch.uint8))
    lifted = affine.slide_y(images, np.zeros(1), np.array([-0.5]), FILL, "bicubic")
    assert torch.equal(lifted[:, :, 4:], images[:, :, :4])


def test_a_flat_image_stays_flat_under_warps():
    images = torch.full((2, 3, 16, 16), 113, dtype=torch.uint8)
    turned = affine.rotate(images, np.array([17.0, -29.0]), (113, 113, 113), "bicubic")
    slid = affine.slide_x(images, np.array([0.23, -0.1]), np.array([0.1, 0.3]), (113, 113, 113), "bicubic")
    assert torch.equal(turned, images) and torch.equal(slid, images)


def test_rotation_by_a_quarter_turn_is_exact():
    images = noise(1, 12, 12)
    assert torch.equal(affine.rotate(images, np.array([90.0]), FILL, "bicubic"), images.rot90(1, (2, 3)))
    assert math.isclose(float(images.float().mean()), float(images.rot90(1, (2, 3)).float().mean()))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_large_images_are_resized_in_bands_as_pillow_does(interpolation):
    pixels = noise(4, 230, 250)
    boxes = np.array([[0, 0, 230, 250], [30, 17, 180, 90], [100, 100, 60, 140], [200, 249, 1, 1]])
    mirrored = np.array([False, True, False, True])
    mine = resized_crop.resample(pixels, boxes, (224, 200), interpolation, mirrored)
    expected = [
        resized(as_pil(image[:, top : top + height, left : left + width]), (224, 200), interpolation)
        for image, (top, left, height, width) in zip(pixels, boxes, strict=True)
    ]
    for place in np.flatnonzero(mirrored):
        expected[place] = expected[place].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gap = gaps(mine, expected)
    assert gap.max() <= 2
    assert (gap > 0).float().mean() < 0.02


def test_bands_and_whole_matrices_give_the_same_levels_inside_and_outside_the_image():
    pixels = noise(3, 256, 256)
    boxes = np.array([[-32, 20, 256, 256], [3, 9, 211, 240], [40, -32, 256, 256]])
    valid = np.array([[256, 256], [220, 250], [256, 130]])
    mirrored = np.array([True, False, True])
    mine = resized_crop.resample(pixels, boxes, (240, 224), "bicubic", mirrored, valid)
    cpu = torch.device("cpu")
    down = resized_crop.taps_of(boxes[:, 0], boxes[:, 2], 256, 240, "bicubic", cpu, None, valid[:, 0])
    across = resized_crop.taps_of(boxes[:, 1], boxes[:, 3], 256, 224, "bicubic", cpu, mirrored, valid[:, 1])
    whole = torch.empty_like(mine)
    resized_crop._resample_into(
        whole, pixels, resized_crop.interpolation_matrix(*down, 256), resized_crop.interpolation_matrix(*across, 256)
    )
    assert torch.equal(mine, whole)
