"""Look up teacher features of a batch in caches, and measure their error against the teachers themselves."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.device import sent
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.replay import mix, replay
from lgkd.distillation.teacher_cache.storage import Cache

_MEASURED_IMAGES = 256


class CachedFeatures:
    """Look up the teacher features of a batch, as a `lgkd.distillation.tasks.Lookup`.

    Args:
        caches: one for each guide.
        guides: the guides whose teachers were cached.
        augment, mixing: augmentation and mixing of the student's images.
        sizes: int32 (N,2), heights and widths of the stored images.
        device: device of the features.
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
        """Return features of the samples of these indices, float32 on the device; None for ended guides."""
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
            logits, embedding, dense = (values.get(name) for name in ("logits", "embedding", "dense"))
            found.append(Features(logits, maps, [], embedding, None, None, dense))
        return tuple(found)

    def _read(self, cache: Cache, name: str, index: Tensor, epoch: int) -> Tensor:
        rows = cache.read(name, epoch % cache.layout.views, index.numpy())
        # Transfer in the storage format and convert on the device, which is faster.
        values = sent(rows, self._device).float()
        if cache.identity["mode"] == "replay" and values.ndim == 4:
            sizes = self._sizes[index]
            boxes, mirrored = self._augment.crops(sizes, index, epoch)
            values = replay(values, boxes, mirrored, sizes.numpy().astype(np.int64))
        return values


@torch.no_grad()
def measure(lookup: CachedFeatures, guides: Sequence[Guide], loader: TrainLoader) -> list[dict[str, float]]:
    """Measure the error of cached features against the teacher's features of the student's images.

    Over the first images of the first epoch, at most some hundreds; each process measures its own share.

    Returns:
        For each guide and kind of feature the norm of the difference relative to the norm.
    """
    wrong: list[dict[str, float]] = [{} for _ in guides]
    whole: list[dict[str, float]] = [{} for _ in guides]
    for images, index in _first(loader):
        for place, (guide, cached) in enumerate(zip(guides, lookup(index, 0), strict=True)):
            assert cached is not None
            online = guide.teach(images)
            for name, ours, theirs in zip(guide.teaches, cached.stored(), online.stored(), strict=True):
                theirs = theirs.double()
                wrong[place][name] = wrong[place].get(name, 0.0) + float((ours - theirs).square().sum())
                whole[place][name] = whole[place].get(name, 0.0) + float(theirs.square().sum())
    return [
        {name: (error / max(whole[place][name], 1e-30)) ** 0.5 for name, error in errors.items()}
        for place, errors in enumerate(wrong)
    ]


def _first(loader: TrainLoader) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for batch in loader.epoch(0):
        assert batch.index is not None and not any(view is not None for view in batch.views)  # refused earlier
        yield batch.images, batch.index
        seen += len(batch.index)
        if seen >= _MEASURED_IMAGES:
            return
