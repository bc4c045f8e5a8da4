"""Images of one channel: grey levels against Pillow's, and views that equal a channel of those of grey colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lgkd.config import View
from lgkd.data.channels import imagenet_normalisation, luminance, with_channels
from lgkd.data.dataset import DataSet, Images
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.errors import InputError

COLOURS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 33, 47), dtype=np.uint8))


def as_pillow(pixels: Tensor) -> Tensor:
    grey = [Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L") for image in pixels]
    return torch.from_numpy(np.stack([np.asarray(image) for image in grey]))[:, None]


def greys(count: int, height: int, width: int) -> Tensor:
    """Smooth grey images, whose three channels are equal."""
    draws = torch.rand(count, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    levels = torch.nn.functional.interpolate(draws, (height, width), mode="bilinear") * 255
    return levels.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()


def test_grey_levels_are_pillows_and_those_of_grey_images_their_own() -> None:
    assert torch.equal(with_channels(COLOURS, 1), as_pillow(COLOURS))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert torch.equal(luminance(every), every[:, :1].float())
    assert with_channels(COLOURS, 3) is COLOURS


def test_statistics_of_one_channel_are_those_of_the_grey_levels() -> None:
    sizes = torch.tensor([[33, 47], [20, 47], [33, 10], [1, 1], [33, 47], [7, 9]], dtype=torch.int32)
    names = tuple(map(str, range(6)))
    images = Images(COLOURS, sizes, torch.zeros(6, dtype=torch.int64), names)
    (mean,), (std,) = DataSet("x", ("a",), images, images, "", ()).statistics(1)
    grey = as_pillow(COLOURS).numpy().astype(np.float64) / 255
    values = np.concatenate([grey[i, 0, :h, :w].ravel() for i, (h, w) in enumerate(sizes.tolist())])
    assert mean == pytest.approx(values.mean(), abs=1e-12) and std == pytest.approx(values.std(), abs=1e-12)


def test_imagenets_normalisation_of_grey_levels_by_hand() -> None:
    (mean,), (std,) = imagenet_normalisation(1)
    assert mean == pytest.approx(0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406, abs=2e-5)
    assert std == pytest.approx(0.299 * 0.229 + 0.587 * 0.224 + 0.114 * 0.225, abs=2e-5)


@pytest.mark.parametrize("side", [(24, 40), (128, 160)], ids=["many at once", "one by one"])
@pytest.mark.parametrize(
    "view",
    [
        View(rand_augment="rand-m9-n4-p1-mstd0.5-inc1"),
        View(crop="pad", color_jitter=0.8),
        View(crop="none", rand_augment="rand-m7-n4-p1", interpolation="bilinear"),
    ],
    ids=["policy", "jitter", "bilinear"],
)
def test_a_view_of_one_channel_is_each_channel_of_the_view_of_grey_colours(view: View, side: tuple[int, int]) -> None:
    pixels = greys(40 if side[0] < 128 else 12, *side)
    sizes = torch.tensor([side] * len(pixels))
    sizes[::3] = torch.tensor([side[0] - 5, side[1] - 9])
    index = torch.arange(len(pixels))
    three = Augment(view, (32, 48), mean=(0.4,) * 3, std=(0.25,) * 3, seed=3)
    one = Augment(view, (32, 48), mean=(0.4,), std=(0.25,), seed=3)
    for epoch in range(2):
        expected, found = three(pixels, sizes, index, epoch), one(pixels, sizes, index, epoch)
        assert found.shape == (len(pixels), 1, 32, 48)
        assert torch.equal(expected[:, :1], expected[:, 1:2])
        assert torch.equal(found, expected[:, :1])
    assert not torch.equal(one(pixels, sizes, index, 0), one(pixels, sizes, index, 1))


def test_erased_boxes_are_those_of_three_channels_and_plain_images_have_one() -> None:
    pixels, sizes, index = greys(20, 32, 32), torch.tensor([[32, 32]] * 20), torch.arange(20)
    view = View(crop="none", flip=0.0, erase=1.0)
    three = Augment(view, 32, mean=(0.4,) * 3, std=(0.25,) * 3, seed=3)(pixels, sizes, index, 0)
    one = Augment(view, 32, mean=(0.4,), std=(0.25,), seed=3)(pixels, sizes, index, 0)
    plain = Plain(32, mean=(0.4,), std=(0.25,))(pixels, sizes)
    assert plain.shape == (20, 1, 32, 32)
    assert torch.equal(plain, Plain(32, mean=(0.4,) * 3, std=(0.25,) * 3)(pixels, sizes)[:, 1:2])
    assert torch.equal((one != plain)[:, 0], (three[:, :1] != plain)[:, 0])
    assert Plain(8, mean=(0.4,), std=(0.2,))(pixels[:0], sizes[:0]).shape == (0, 1, 8, 8)


def test_a_normalisation_has_three_numbers_or_one_of_each() -> None:
    for mean, std, found in (((0.5, 0.5), (0.2, 0.2), "mean has 2"), ((0.5,), (0.2,) * 3, "std has 3")):
        with pytest.raises(InputError, match=f"{found} numbers; expected 3, for red, green and blue, or 1 for grey"):
            Plain(8, mean=mean, std=std)
