"""Load batches of a split; order and augmentation depend only on (seed, epoch, sample).

Letters in shapes: B batch, K classes, H W size of the model's images, S T stored canvas.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from lgkd.data.batch import Batch
from lgkd.data.dataset import Images
from lgkd.data.prefetch import ahead
from lgkd.data.sampler import Sampler
from lgkd.data.side_stream import SideStream
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.device import sent
from lgkd.data.transforms.mixup import Mixing
from lgkd.errors import InputError

# Small batches are drawn several at a time, so that the cost of a call is shared: up to so many pixels on a CPU, and on
# a device up to so many batches, as far as a share of its free memory suffices.
_PIXELS_AT_ONCE = 1024 * 32 * 32
_BATCHES_AT_ONCE = 16
# A data set may take this share of the memory that is free on a GPU; the rest is for training.
_SHARE_OF_FREE_MEMORY = 0.3


@dataclass(frozen=True)
class _Read:
    """Hold stored images of some samples.

    Attributes:
        parts: of each store that holds some of them: pixels uint8 (b,3,S,T) on the device; sizes int32 (b,2) and
            keys int64 (b,) on the host, where boxes are drawn.
        labels: int64 (B,), or float (B,K) of several labels an image, on the device, in the order that was asked for.
        keys: int64 (B,) on the host, in that order.
        rows: int64 (B,) on the device: place of each sample in all parts together; None where one part has all.
    """

    parts: tuple[tuple[Tensor, Tensor, Tensor], ...]
    labels: Tensor
    keys: Tensor
    rows: Tensor | None

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Keep its memory until `stream` has come so far."""
        on_device = [self.labels, *(pixels for pixels, _, _ in self.parts)]
        for tensor in on_device if self.rows is None else [*on_device, self.rows]:
            tensor.record_stream(stream)


_Group: TypeAlias = "tuple[list[int], _Read, _Read | None, torch.cuda.Event | None, list[Tensor | None]]"


class TrainLoader:
    """Load training batches of one split.

    A split that has no room on the GPU stays where it is; a thread then reads the images of the next
    batch and copies them, on a separate stream, while the last batch is trained on. On a GPU all batches are drawn on a
    stream of their own, ahead of the step. Batches are the same.

    Args:
        images: the decoded split.
        augment: makes the images that the model sees.
        mixing: mixup, cutmix and label smoothing.
        batch_size: images a step; with fewer images than that a batch is all of them.
        seed: of the order of the images.
        drop_last: leave out the last, smaller batch of an epoch.
        device: of the batches. A split that fits is moved there once.
        rank, processes: the share of this process: every global batch is cut into
            `processes` runs of nearly equal length, in order.
        repeats: number of times that an image is in its batch, with other draws each time; see `Sampler`.
        extra: more images of the same classes, which make up a share of every batch.
        extra_share: that share, between 0 and 1.
        views: for each teacher that sees the stored image drawn again, in its own size, its augmentation (with the seed
            and settings of `augment`); None for one that sees the student's image.
        balanced: show every class equally often instead of every image once; see `Sampler`.
        class_weights: float (K,), of the classification loss, for the mean over a batch that it is divided by.
        read_ahead: whether a thread reads the next batch; None: where images have to be copied to a GPU.
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
        repeats: int = 1,
        extra: Images | None = None,
        extra_share: float = 0.0,
        views: Sequence[Augment | None] = (),
        balanced: bool = False,
        class_weights: Tensor | None = None,
        read_ahead: bool | None = None,
    ) -> None:
        self._sampler = Sampler(
            len(images),
            batch_size=batch_size,
            seed=seed,
            drop_last=drop_last,
            repeats=repeats,
            extra=len(extra) if extra is not None else 0,
            extra_share=extra_share,
            labels=images.labels if balanced else None,
        )
        self.batch_size, self.steps_per_epoch = self._sampler.batch_size, self._sampler.steps
        parts = [images] if extra is None else [images, extra]
        self._stores = [_Store(part, device) for part in parts]
        self._names = [part.names for part in parts]
        self._weights = None if class_weights is None else class_weights[torch.cat([part.labels for part in parts])]
        self._augment, self._views = augment, tuple(views)
        self._mixing = mixing
        self._device = torch.device(device)
        self._rank, self._processes = rank, processes
        streams = any(store.streams for store in self._stores)
        self._read_ahead = streams if read_ahead is None else read_ahead
        self._stream = torch.cuda.Stream(device) if streams else None  # type: ignore[no-untyped-call]
        self._side = SideStream(self._device) if self._device.type == "cuda" else None
        if processes > (smallest := min(self._sampler.last, self.batch_size)):
            part = "the last batch of an epoch" if smallest < self.batch_size else "a batch"
            raise InputError(
                f"{part} (images: {smallest}) cannot be shared by {processes} processes; use fewer, or another "
                "--batch-size"
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches of an epoch from step `start` on.

        Yields:
            Batches with targets int64 (B,), or (B,K) where labels are mixed or an image has several. Places are those
            of the split, then those of the extra images.
        """
        groups = self._groups(epoch, start)
        if self._read_ahead:
            groups = ahead(groups)
        if self._side is None:
            for group in groups:
                yield from self._batches(group, epoch)
            return

        def drawn() -> list[Batch] | None:
            group = next(groups, None)
            return None if group is None else [*self._batches(group, epoch)]

        yield from self._side.ahead(drawn)

    def _batches(self, group: _Group, epoch: int) -> Iterator[Batch]:
        """Yield the batches of some steps, whose images have been read; each is mixed when its turn comes."""
        lengths, own, partners, copied, weights = group
        if copied is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            for read in (own, partners):
                if read is not None:
                    read.used_on(now)
        shown = [self._shown(lengths, own, partners, epoch, self._augment)]
        shown += [self._shown(lengths, own, partners, epoch, view) for view in self._views if view is not None]
        for keys, weight in zip(torch.split(own.keys, lengths), weights, strict=True):
            (images, labels), *others = [next(pieces) for pieces in shown]
            rest = iter(view for view, _ in others)
            views = tuple(next(rest) if view is not None else None for view in self._views)
            yield Batch(images, labels, views, index=self._sampler.places(keys), weight=weight)

    def _at_once(self) -> int:
        """Return the number of batches that are drawn together."""
        height, width = self._augment.image_size
        share_of_batch = -(-self.batch_size // self._processes)
        if self._device.type == "cpu":
            return max(1, _PIXELS_AT_ONCE // (share_of_batch * height * width))
        augments = [self._augment, *(view for view in self._views if view is not None)]
        fits = min(augment.images_at_once(store.stored, self._device) for augment in augments for store in self._stores)
        # Two groups are there at a time: one is trained on while the next one is drawn.
        return min(_BATCHES_AT_ONCE, max(1, fits // (2 * share_of_batch)))

    def _groups(self, epoch: int, start: int) -> Iterator[_Group]:
        """Yield stored images of some steps: the number of images of each, the samples and, where those are in another
        process's share, their partners; the event to wait for, where they are copied on another stream; and the mean
        class weight of each whole batch."""
        at_once = self._at_once()
        steps = self._sampler.epoch(epoch, start)
        while group := [*islice(steps, at_once)]:
            shares = [torch.arange(len(whole)).tensor_split(self._processes)[self._rank] for whole in group]
            with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
                pairs = [*zip(group, shares, strict=True)]
                own, partners = self._read(torch.cat([whole[share] for whole, share in pairs])), None
                if self._mixing.mixes and self._processes > 1:
                    # They are drawn here again, to the same pixels.
                    others = [whole[self._mixing.partners(whole, epoch)[share]] for whole, share in pairs]
                    partners = self._read(torch.cat(others))
            copied = self._stream.record_event() if self._stream is not None else None
            yield [len(share) for share in shares], own, partners, copied, [self._weight(whole) for whole in group]

    def _weight(self, keys: Tensor) -> Tensor | None:
        """Return the mean class weight of the samples of these keys, on the device; None where none is needed."""
        if self._weights is None or self._mixing.active:
            return None
        mean = self._weights[self._sampler.places(keys)].double().mean()
        return sent(mean.numpy().reshape(1), self._device, torch.float32)[0]

    def _read(self, keys: Tensor) -> _Read:
        """Read the stored images of these keys."""
        places = self._sampler.places(keys)
        if len(self._stores) == 1:
            pixels, sizes, labels = self._stores[0].read(places)
            return _Read(((pixels, sizes, keys),), labels, keys, None)
        first = len(self._stores[0])
        rows = torch.argsort((places >= first).to(torch.uint8), stable=True)
        cut = int((places.numpy() < first).sum())
        groups = (rows[:cut], 0, self._stores[0]), (rows[cut:], first, self._stores[1])
        found = [(*store.read(places[group] - base), keys[group]) for group, base, store in groups if len(group)]
        back = sent(torch.argsort(rows).numpy(), self._device)
        labels = torch.cat([labels for _, _, labels, _ in found]).index_select(0, back)
        return _Read(tuple((pixels, sizes, some) for pixels, sizes, _, some in found), labels, keys, back)

    def _shown(
        self, lengths: list[int], own: _Read, partners: _Read | None, epoch: int, augment: Augment
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented and mixed images and their targets, step by step; all are augmented at once."""
        batches = zip(
            torch.split(self._drawn(own, epoch, augment), lengths),
            torch.split(own.labels, lengths),
            torch.split(own.keys, lengths),
            strict=True,
        )
        if not self._mixing.active:
            yield from ((images, labels) for images, labels, _ in batches)
        elif partners is None:
            yield from (self._mixing(*batch, epoch) for batch in batches)
        else:
            drawn = self._drawn(partners, epoch, augment)
            others = torch.split(drawn, lengths), torch.split(partners.labels, lengths)
            for batch, theirs, their_labels in zip(batches, *others, strict=True):
                yield self._mixing(*batch, epoch, theirs, their_labels)

    def _drawn(self, read: _Read, epoch: int, augment: Augment) -> Tensor:
        """Augment images, in the order of the keys."""
        images = [augment(*part, epoch) for part in read.parts]
        return images[0] if read.rows is None else torch.cat(images).index_select(0, read.rows)

    def names(self, index: Tensor) -> list[str]:
        """Return the names of the samples at these places."""
        first = len(self._names[0])
        return [self._names[0][place] if place < first else self._names[1][place - first] for place in index.tolist()]


class EvalLoader:
    """Load a split in its stored order, resized and normalised, for evaluation; every image once.

    Args:
        images: the decoded split.
        plain: resizes and normalises.
        batch_size: images at once.
        device: of the batches.
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
        self._store = _Store(images, device)
        self._plain = plain
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B,3,H,W) and class numbers int64 (B,), or float (B,K) of several labels an image."""
        for start in range(0, len(self._places), self._batch_size):
            index = self._places[start : start + self._batch_size]
            pixels, sizes, labels = self._store.read(index)
            yield self._plain(pixels, sizes), labels


class _Store:
    """Hold a split, its pixels on the device if it has room for them; labels are there always, sizes never."""

    def __init__(self, images: Images, device: str) -> None:
        self._device = torch.device(device)
        self._images: Images | None = images  # until its pixels are all on the device
        self._pixels, self._sizes = images.pixels, images.sizes
        self._labels = images.labels.to(device)
        if self._device.type != "cpu":
            free, _ = torch.get_device_module(self._device).mem_get_info(self._device)
            if images.pixels.nbytes <= free * _SHARE_OF_FREE_MEMORY:
                images.check()
                self._pixels, self._images = images.pixels.to(device), None

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def stored(self) -> tuple[int, ...]:
        """Return (height, width) of the stored images."""
        return tuple(self._pixels.shape[2:])

    @property
    def streams(self) -> bool:
        """Return True if every batch has to be copied to a GPU."""
        return self._device.type == "cuda" and self._pixels.device.type != "cuda"

    def read(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels on the device, sizes on the host (where boxes are drawn), labels on the device."""
        if self._images is not None:
            self._images.check(places)
        on_device = sent(places.numpy(), self._device)
        if self.streams:
            # Read into pinned memory: a copy from there is asynchronous.
            rows = torch.empty((len(places), *self._pixels.shape[1:]), dtype=torch.uint8, pin_memory=True)
            pixels = torch.index_select(self._pixels, 0, places, out=rows).to(self._device, non_blocking=True)
        else:
            rows = places if self._pixels.device.type == "cpu" else on_device
            pixels = self._pixels.index_select(0, rows).to(self._device)
        return pixels, self._sizes[places], self._labels.index_select(0, on_device)
