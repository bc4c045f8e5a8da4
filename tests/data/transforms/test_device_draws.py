"""Drawing on a device, run on tensors of the CPU: the levels of drawing on a CPU, which Pillow and timm check."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lgkd.config import View
from lgkd.data.transforms import device as device_module
from lgkd.data.transforms.apply import apply_layer
from lgkd.data.transforms.apply_device import Layers
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.parcel import Parcel
from lgkd.data.transforms.rand_augment import KINDS, Layer, strength_of
from lgkd.data.transforms.random_erasing import Erasing, erase
from lgkd.data.transforms.warp_device import MOVES

MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
CPU = torch.device("cpu")


def stored(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Noise, smooth images, a flat one and one of two levels; sizes from a half to the whole canvas."""
    draw = torch.Generator().manual_seed(height)
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=draw)
    pixels[::2] = torch.nn.functional.avg_pool2d(pixels[::2].float(), 5, 1, 2).byte()
    pixels[1], pixels[3] = 7, pixels[3] % 2 * 90 + 40
    sizes = [torch.randint(side // 2, side + 1, (count,), generator=draw) for side in (height, width)]
    return pixels, torch.stack(sizes, dim=1)


def drawn_on_device(augment: Augment, pixels: Tensor, sizes: Tensor, index: Tensor, epoch: int) -> Tensor:
    result = torch.empty(len(pixels), 3, *augment.image_size)
    with torch.no_grad():
        augment._draw_on_device(result, pixels, sizes.numpy().astype(np.int64), index, epoch)
    return result


@pytest.mark.parametrize(
    ("view", "canvas", "size"),
    [
        (View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5), (24, 20), (17, 23)),
        (View(rand_augment="rand-m9-mstd0.5-inc1-n3-p1", erase=0.5, interpolation="bilinear"), (40, 32), (16, 16)),
        (View(crop="pad", padding=0.25, padding_mode="reflect", color_jitter=0.4), (16, 16), (16, 16)),
        (View(crop="pad", padding=0.25, alternate_flip=True), (16, 16), (24, 12)),
        (View(crop="none"), (24, 20), (2, 2)),
        (View(rand_augment="rand-m9-n2-p1"), (6, 5), (2, 9)),
    ],
    ids=["random-resized", "bilinear", "reflected", "black", "whole", "tiny"],
)
def test_images_are_those_of_the_cpu_but_for_a_level_now_and_then(
    view: View, canvas: tuple[int, int], size: tuple[int, int]
) -> None:
    augment = Augment(view, size, mean=MEAN, std=STD, seed=1)
    pixels, sizes = stored(48, *canvas)
    index = torch.arange(48) * 5 + 2
    for epoch in range(2):
        expected = augment(pixels, sizes, index, epoch)
        found = drawn_on_device(augment, pixels, sizes, index, epoch)
        apart = (found - expected).abs() * 255 * torch.tensor(STD)[:, None, None]
        assert apart.max() < 1.001
        assert (apart > 0.01).float().mean() < 2e-3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_operation_has_the_levels_of_the_cpu(kind: str, interpolation: str) -> None:
    pixels, _ = stored(24, 33, 28)
    chance = np.random.default_rng(3)
    strength = strength_of(kind, chance.uniform(0, 10, 24), chance.choice([-1.0, 1.0], 24), True)
    layer = Layer(np.full(24, KINDS.index(kind)), strength)
    expected, parcel = pixels.clone(), Parcel(CPU)
    apply_layer(expected, layer, (10, 20, 30), interpolation)  # type: ignore[arg-type]
    layers = Layers(parcel, [layer], (33, 28), (10, 20, 30), interpolation)  # type: ignore[arg-type]
    parcel.send()
    apart = (layers(pixels).int() - expected.int()).abs()
    if kind in MOVES:
        assert apart.max() <= 1 and (apart > 0).float().mean() < 3e-4
    else:
        assert apart.max() == 0
    assert not torch.equal(expected, pixels), "the operation must have done something"


def test_an_image_is_the_same_to_the_bit_in_any_batch() -> None:
    augment = Augment(View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5), 16, mean=MEAN, std=STD, seed=1)
    pixels, sizes = stored(40, 20, 20)
    index = torch.arange(40)
    whole = drawn_on_device(augment, pixels, sizes, index, 3)
    for part in (slice(0, 1), slice(7, 20), slice(39, 40)):
        assert torch.equal(drawn_on_device(augment, pixels[part], sizes[part], index[part], 3), whole[part])


def test_erased_noise_is_that_of_the_cpu_to_the_bit() -> None:
    places, boxes = np.array([1, 3, 4]), np.array([[0, 2, 5, 3], [4, 1, 2, 6], [7, 0, 1, 1]])
    keys = np.array([5, 2**32 - 1, 2**31])
    expected, found, parcel = torch.zeros(5, 3, 8, 9), torch.zeros(5, 3, 8, 9), Parcel(CPU)
    erase(expected, places, boxes, keys)
    erasing = Erasing(parcel, places, boxes, keys, shape=(3, 8, 9))
    parcel.send()
    erasing(found)
    assert torch.equal(found, expected)
    assert (found != 0).sum() == 3 * (15 + 12 + 1)


def test_a_parcel_returns_what_was_added() -> None:
    arrays = [
        np.arange(5, dtype=np.float32).reshape(5, 1),
        np.array([[1, -2], [3, 2**40]]),
        np.array([True, False, True]),
        np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2],
    ]
    parcel = Parcel(CPU)
    numbers = [parcel.add(array) for array in arrays]
    parcel.send()
    for number, array in zip(numbers, arrays, strict=True):
        assert parcel.get(number).numpy().dtype == array.dtype
        np.testing.assert_array_equal(parcel.get(number).numpy(), array)


def test_as_many_images_are_drawn_together_as_a_tenth_of_the_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [0]
    monkeypatch.setattr(device_module, "_free_memory", lambda device: free[0])
    one = 256 * 32 * 32 + 24 * 64 * 48
    for images in (1, 7):
        free[0] = 10 * one * images
        assert device_module.images_at_once((64, 48), (32, 32), CPU) == images
    free[0] = 5
    assert device_module.images_at_once((64, 48), (32, 32), CPU) == 1
