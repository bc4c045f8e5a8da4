"""Run timm's input pipeline in a `DataLoader`, the input of a plain loop."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from lgkd.config import Recipe
from lgkd.data.dataset import Images
from lgkd.data.prepare import Data

_PREFETCH = 2


class PillowImages(Dataset[tuple[Tensor, int]]):
    """Hand each decoded image to timm's transform as a PIL image, as torchvision's CIFAR does."""

    def __init__(self, images: Images, transform: Callable[[Any], Tensor]) -> None:
        images.check()
        self._pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self._sizes = images.sizes.tolist()
        self._labels = images.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        height, width = self._sizes[place]
        return self._transform(to_pil_image(self._pixels[place, :height, :width])), self._labels[place]


def timm_transform(recipe: Recipe, image_size: tuple[int, int], data: Data) -> Callable[[Any], Tensor]:
    """Build timm's training transform with the settings of a recipe."""
    view = recipe.view
    transform = create_transform(
        image_size,
        is_training=True,
        scale=view.scale,
        ratio=view.ratio,
        hflip=view.flip,
        # Off where RandAugment is on, as timm does by itself.
        color_jitter=view.color_jitter,
        auto_augment=view.rand_augment,
        interpolation=view.interpolation,
        mean=data.mean,
        std=data.std,
        re_prob=view.erase,
        re_mode="pixel",
    )
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _KeepingABit(operation.aug_fn)
    return transform  # type: ignore[no-any-return]


class _KeepingABit:
    """Keep one bit in posterize: from Pillow 13 on, 0 bits, which timm sometimes draws, is an error."""

    def __init__(self, posterize: Callable[..., Any]) -> None:
        self._posterize = posterize

    def __call__(self, image: Any, bits: int, **words: Any) -> Any:
        return self._posterize(image, max(1, bits), **words)


class Pipeline:
    """Open a `DataLoader` for a lap and close it after it, so that no worker is busy between laps.

    Args:
        images: with the transform in them.
        batch_size: images a batch.
        device: of the batches.
    """

    def __init__(self, images: PillowImages, *, batch_size: int, device: str) -> None:
        self._images, self._batch_size = images, batch_size
        self._device = torch.device(device)

    @contextmanager
    def opened(self, workers: int) -> Iterator[Callable[[], tuple[Tensor, Tensor]]]:
        """Yield a function that returns the next batch, for the length of a block.

        Args:
            workers: processes; 0 for none. What they have prepared ahead is thrown away first: it would be free.
        """
        loader = DataLoader(
            self._images,
            batch_size=self._batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCH if workers else None,
            pin_memory=self._device.type == "cuda",
            # Workers that begin as copies share the images; it is what torch does by default where it can.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
        batches = _endless(loader)
        for _ in range(workers * _PREFETCH):
            next(batches)
        try:
            yield lambda: self._sent(next(batches))
        finally:
            # The workers end with the iterator.
            batches.close()
            loader._iterator = None

    def _sent(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Any:
    while True:
        yield from loader
