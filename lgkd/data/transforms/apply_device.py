"""Apply all drawn layers to a batch on a device, in few launches whatever its size."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.transforms.affine import Fill
from lgkd.data.transforms.parcel import Parcel
from lgkd.data.transforms.rand_augment import KINDS, UNTOUCHED, Layer
from lgkd.data.transforms.recolour_device import BLENDED, LOOKED_UP, Blends, Tables
from lgkd.data.transforms.resized_crop import Interpolation
from lgkd.data.transforms.warp_device import MOVES, Warp

_Places = NDArray[np.int64]


class _Step:
    """Hold one layer: the images in the order of their operations, and the places of each group in that order."""

    def __init__(self, layer: Layer, sharpens: bool) -> None:
        kinds = layer.kind
        if not sharpens:  # an image without inner pixels
            kinds = np.where(kinds == KINDS.index("sharpness"), UNTOUCHED, kinds)
        groups = [np.concatenate([np.flatnonzero(kinds == KINDS.index(name)) for name in g]) for g in _GROUPS]
        self.order: _Places = np.concatenate([*groups, np.flatnonzero(kinds == UNTOUCHED)])
        ends = np.cumsum([0, *map(len, groups)]).tolist()
        self.looked_up, self.blended, self.moved = (slice(*pair) for pair in pairwise(ends))
        self._names = [KINDS[kind] for kind in kinds[self.order[: ends[-1]]]]
        self._strengths = layer.strength[self.order]

    def of(self, group: slice) -> tuple[list[str], NDArray[np.float64]]:
        """Return names and strengths of a group."""
        return self._names[group], self._strengths[group]


_GROUPS = (LOOKED_UP, BLENDED, MOVES)


class Layers:
    """Apply drawn layers one after the other.

    Args:
        parcel: takes the parameters; it is to be sent before the call.
        layers: in their order.
        size: (height, width) of the images.
        fill: levels of the area that a geometric operation uncovers.
    """

    def __init__(
        self, parcel: Parcel, layers: Sequence[Layer], size: tuple[int, int], fill: Fill, interpolation: Interpolation
    ) -> None:
        self._parcel = parcel
        self._steps = [_Step(layer, sharpens=min(size) >= 3) for layer in layers]
        # Images stay in the order of a layer until the next one; each reads where the one before left them.
        reads, place = [], np.arange(len(layers[0].kind)) if layers else np.arange(0)
        for step in self._steps:
            reads.append(place[step.order])
            place = np.argsort(step.order)
        self._reads = parcel.add(np.stack([*reads, place]).astype(np.int64)) if layers else None
        looked_up, blended = (
            [step.of(getattr(step, kind)) for step in self._steps] for kind in ("looked_up", "blended")
        )
        self._tables = [Tables(parcel, *some) if some[0] else None for some in looked_up]
        self._blends = [Blends(parcel, *some) if some[0] else None for some in blended]
        moved = [step.of(step.moved) for step in self._steps]
        names = [name for some, _ in moved for name in some]
        strengths = np.concatenate([some for _, some in moved]) if moved else np.empty(0)
        self._warp = Warp(parcel, names, strengths, size, fill, interpolation) if names else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the changed images, uint8 (B, 3, H, W), in the order in which they came."""
        if self._reads is None:
            return images
        if self._warp is not None:
            self._warp.prepare(images.device)
        *reads, back = self._parcel.get(self._reads)
        warped = 0
        for step, read, tables, blends in zip(self._steps, reads, self._tables, self._blends, strict=True):
            images = images.index_select(0, read)
            if tables is not None:
                tables(images[step.looked_up])
            blended, moved = (group.stop - group.start for group in (step.blended, step.moved))
            if not blended + moved:
                continue
            values = torch.empty(blended + moved, *images.shape[1:], device=images.device)
            if blends is not None:
                blends(images[step.blended], values[:blended])
            if moved:
                assert self._warp is not None
                self._warp.apply(images[step.moved], slice(warped, warped + moved), values[blended:])
                warped += moved
            images[step.blended.start : step.moved.stop].copy_(values.clamp_(0.0, 255.0))
        return images.index_select(0, back)
