"""Batches of a split, in an order and with an augmentation that depend on nothing but (seed, epoch, sample).

Letters in shapes: B batch, K classes, H W size of the model's images, S T stored canvas.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lgkd.chance import epoch_order
from lgkd.data.augment import Augment, Plain
from lgkd.data.images import Images
from lgkd.data.mixing import Mixing
from lgkd.errors import InputError

# A data set may take this share of the memory that is free on a GPU; the rest is for training.
_SHARE_OF_FREE_MEMORY = 0.3


class Feed:
    """Training batches of one split.

    Args:
        images: the decoded split.
        augment: draws what the model sees.
        mixing: mixup, cutmix and label smoothing.
        batch_size: images a step; with fewer images than that a batch is all of them.
        seed: of the order of the images.
        drop_last: leave out the last, smaller batch of an epoch.
        device: where batches are wanted. A split that fits is moved there once.
        rank, processes: which share of every global batch is this process's: the batch is cut into
            `processes` runs of nearly equal length, in order.
    """

    def __init__(
        self,
        images: Images,
        augment: Augment,
        mixing: Mixing,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        device: str = "cpu",
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} images trains nothing; expected at least 1")
        self.batch_size = min(batch_size, len(images))
        self.steps_per_epoch = len(images) // self.batch_size if drop_last else -(-len(images) // self.batch_size)
        self._images = _placed(images, device)
        self._augment = augment
        self._mixing = mixing
        self._seed = seed
        self._device = device
        self._rank, self._processes = rank, processes
        last = 0 if drop_last else len(images) % self.batch_size
        if processes > (smallest := last or self.batch_size):
            raise InputError(
                f"{'the last batch of an epoch' if last else 'a batch'} (images: {smallest}) cannot be shared by "
                f"{processes} processes; use fewer, or another --batch-size"
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of an epoch from step `start` on.

        Yields:
            images (B,3,H,W) normalised; targets, int64 (B,) or (B,K) where labels are mixed; and the
            samples' places in the split, int64 (B,), on the host.
        """
        order = epoch_order(self._seed, epoch, len(self._images))
        for step in range(start, self.steps_per_epoch):
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = torch.arange(len(whole)).tensor_split(self._processes)[self._rank]
            index = whole[share]
            images, labels = self._drawn(index, epoch)
            if not self._mixing.active:
                yield images, labels, index
            elif self._processes == 1 or not self._mixing.mixes:
                yield *self._mixing(images, labels, index, epoch), index
            else:
                # A partner may be in another process's share; it is drawn here again, to the same pixels.
                partners = whole[self._mixing.partners(whole, epoch)[share]]
                others, their_labels = self._drawn(partners, epoch)
                mixed = self._mixing(images, labels, index, epoch, partner_images=others, partner_labels=their_labels)
                yield *mixed, index

    def names(self, index: Tensor) -> list[str]:
        """What the samples at these places are called."""
        return [self._images.names[place] for place in index.tolist()]

    def _drawn(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented images and their class numbers."""
        pixels, sizes, labels = _gather(self._images, index, self._device)
        return self._augment(pixels, sizes, index, epoch), labels


class PlainBatches:
    """A split in its stored order, resized and normalised: for evaluation. Every image comes once.

    Args:
        images: the decoded split.
        plain: resizes and normalises.
        batch_size: images at once.
        device: where batches are wanted.
        rank, processes: the split is cut into `processes` runs of nearly equal length; this is one of them.
    """

    def __init__(
        self,
        images: Images,
        plain: Plain,
        *,
        batch_size: int,
        device: str = "cpu",
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if processes > len(images):
            raise InputError(f"a split of {len(images)} images cannot be shared by {processes} processes; use fewer")
        self._places = torch.arange(len(images)).tensor_split(processes)[rank]
        self._images = _placed(images, device)
        self._plain = plain
        self._batch_size = batch_size
        self._device = device

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images (B,3,H,W) and class numbers int64 (B,)."""
        for start in range(0, len(self._places), self._batch_size):
            index = self._places[start : start + self._batch_size]
            pixels, sizes, labels = _gather(self._images, index, self._device)
            yield self._plain(pixels, sizes), labels


def _placed(images: Images, device: str) -> Images:
    """The split with its pixels on the device, if it has room for them."""
    if torch.device(device).type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if images.pixels.nbytes > free * _SHARE_OF_FREE_MEMORY:
        return images
    return replace(images, pixels=images.pixels.to(device))


def _gather(images: Images, index: Tensor, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels on the device, sizes on the host (where boxes are drawn), labels on the device."""
    pixels = images.pixels[index.to(images.pixels.device)]
    if pixels.device.type != torch.device(device).type:
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels, images.sizes[index], images.labels[index].to(device, non_blocking=True)
