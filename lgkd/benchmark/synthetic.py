"""Make synthetic images and a teacher, to measure speed without data or trained teachers."""

import tempfile

import numpy as np
import torch
from torch import Tensor, nn

from lgkd._internal.rng import seed_of, seeded
from lgkd.benchmark.options import CLASSES, Choices
from lgkd.data.dataset import DataSet, Images
from lgkd.data.prepare import Data, make_test_batches
from lgkd.data.synthetic import pictures
from lgkd.models.factory import create_model, default_image_size
from lgkd.models.memory_format import lay_out
from lgkd.models.teacher import Teacher

_TEST_IMAGES = 512
_BLOCK_BYTES = 32 << 20
# Beyond this the images are stored in a temporary file, as the decoded images of a large data set do.
_IN_MEMORY_BYTES = 256 << 20
_CALIBRATION_IMAGES = 128


def made_dataset(choices: Choices) -> DataSet:
    """Make square images of seeded blurs and noise, in 100 classes of equal size."""
    chance = torch.Generator().manual_seed(seed_of(choices.seed, "made images"))
    size = choices.source_size
    return DataSet(
        name="made",
        classes=tuple(f"{number:03}" for number in range(CLASSES)),
        train=_split(choices.images, size, chance, "train"),
        test=_split(_TEST_IMAGES, size, chance, "test"),
        fingerprint="",
        notes=(),
    )


def _split(count: int, size: int, chance: torch.Generator, name: str) -> Images:
    bytes_each = 3 * size * size
    block = pictures(min(count, max(1, _BLOCK_BYTES // bytes_each)), size, chance)
    pixels = _room(count, size)
    for start in range(0, count, len(block)):
        some = pixels[start : start + len(block)]
        some.copy_(block[: len(some)])
    return Images(
        pixels=pixels,
        sizes=torch.full((count, 2), size, dtype=torch.int32),
        labels=torch.arange(count) % CLASSES,
        names=(f"a made image of {name}",) * count,
    )


def _room(count: int, size: int) -> Tensor:
    """Allocate uint8 (count,3,size,size), not filled; if large, in a temporary file that ends with its last user."""
    shape = (count, 3, size, size)
    if count * 3 * size * size <= _IN_MEMORY_BYTES:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


def made_teacher(name: str, data: Data, seed: int) -> Teacher:
    """Make an untrained teacher for images of these classes."""
    model = teaching_model(name, data, seed)
    lay_out(model)
    return Teacher(model, image_size=default_image_size(name), mean=data.mean, std=data.std)


def teaching_model(name: str, data: Data, seed: int) -> nn.Module:
    """Build the module in it, with the images' BatchNorm statistics, so that its maps are of a usual size."""
    size = default_image_size(name)
    with seeded(seed_of(seed, "made teacher")):
        model = create_model(name, num_classes=len(data.classes), image_size=size, channels=len(data.mean))
    _calibrate(model, data, size)
    return model


@torch.no_grad()
def _calibrate(model: nn.Module, data: Data, size: int) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches
    some = data.train.take(torch.arange(min(_CALIBRATION_IMAGES, len(data.train))))
    batches = make_test_batches(
        some, image_size=(size, size), mean=data.mean, std=data.std, interpolation="bilinear", device="cpu"
    )
    model.train()
    for images, _ in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
