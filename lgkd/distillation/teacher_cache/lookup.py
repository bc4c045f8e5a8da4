"""What teachers make of the samples of a batch, read from caches; and how far that is from the teachers themselves."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lgkd.data.loader import Feed
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.device import sent
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.replay import mix, replay
from lgkd.distillation.teacher_cache.storage import Cache

_MEASURED_IMAGES = 256


class CachedFeatures:
    """A `lgkd.distillation.tasks.Lookup`.

    Args:
        caches: one for each guide.
        guides: whose teachers they are of.
        augment, mixing: what draws and mixes the student's images.
        sizes: int32 (N,2), heights and widths of the stored images.
        device: where features are wanted.
    """

    def __init__(
        self,
        caches: Sequence[Cache],
        guides: Sequence[Guide],
        augment: Augment,
        mixing: Mixing,
        *,
        sizes: Tensor,
        device: str,
    ) -> None:
        self.caches = tuple(caches)
        self._guides = tuple(guides)
        self._augment, self._mixing = augment, mixing
        self._sizes = sizes
        self._device = torch.device(device)

    def __call__(self, index: Tensor, epoch: int) -> tuple[Features | None, ...]:
        """Features of the samples at these places, float32 on the device; nothing for guides whose terms have ended."""
        partner = kept = None
        if self._mixing.mixes:
            partner = sent(self._mixing.partners(index, epoch).numpy(), self._device)
            kept = self._mixing.kept(index, epoch, self._augment.image_size, self._device)
        found: list[Features | None] = []
        for cache, guide in zip(self.caches, self._guides, strict=True):
            if not guide.active:
                found.append(None)
                continue
            values = {name: self._read(cache, name, index, epoch) for name in guide.teaches}
            if partner is not None and kept is not None:
                values = {name: mix(value, value.index_select(0, partner), kept) for name, value in values.items()}
            maps = [value for name, value in values.items() if name.startswith("map")]
            found.append(Features(values.get("logits"), maps, [], values.get("embedding"), None, None))
        return tuple(found)

    def _read(self, cache: Cache, name: str, index: Tensor, epoch: int) -> Tensor:
        rows = cache.read(name, epoch % cache.layout.views, index.numpy())
        # The numbers travel as they are stored; they are widened where there is time for it.
        values = sent(rows, self._device).float()
        if cache.identity["mode"] == "replay" and values.ndim == 4:
            sizes = self._sizes[index]
            boxes, mirrored = self._augment.crops(sizes, index, epoch)
            values = replay(values, boxes, mirrored, sizes.numpy().astype(np.int64))
        return values


@torch.no_grad()
def measure(lookup: CachedFeatures, guides: Sequence[Guide], feed: Feed) -> list[dict[str, float]]:
    """How far cached features are from what the teacher says of the images that the student sees.

    Over the first images of the first epoch, at most some hundreds, and of several processes over this one's.

    Returns:
        For each guide and kind of feature the norm of the difference as a share of the norm.
    """
    wrong: list[dict[str, float]] = [{} for _ in guides]
    whole: list[dict[str, float]] = [{} for _ in guides]
    for images, index in _first(feed):
        for place, (guide, cached) in enumerate(zip(guides, lookup(index, 0), strict=True)):
            assert cached is not None
            online = guide.teach(images)
            for name, ours, theirs in zip(guide.teaches, _values(cached), _values(online), strict=True):
                theirs = theirs.double()
                wrong[place][name] = wrong[place].get(name, 0.0) + float((ours - theirs).square().sum())
                whole[place][name] = whole[place].get(name, 0.0) + float(theirs.square().sum())
    return [
        {name: (error / max(whole[place][name], 1e-30)) ** 0.5 for name, error in errors.items()}
        for place, errors in enumerate(wrong)
    ]


def _first(feed: Feed) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for batch in feed.epoch(0):
        assert batch.index is not None and not any(view is not None for view in batch.views)  # those are refused before
        yield batch.images, batch.index
        seen += len(batch.index)
        if seen >= _MEASURED_IMAGES:
            return


def _values(features: Features) -> list[Tensor]:
    """In the order of `Guide.teaches`."""
    more = [value for value in (features.logits, features.embedding) if value is not None]
    return [*features.maps, *more]
