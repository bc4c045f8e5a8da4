"""Write a cache by running a teacher once over every view of every image."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.storage import Identity, Layout, Writer
from lgkd.errors import InputError, NonFiniteError

Draw = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Maps (pixels, sizes, indices, view) of a batch to the student's images (B,3,H,W)."""

_GIGA = 1e9
_SECONDS_BETWEEN_RECORDS = 20.0


def check_size(layout: Layout, place: Path, max_gb: float | None) -> None:
    """Refuse a cache that is larger than the limit or the free disk space, before it is started.

    Raises:
        InputError: it is larger.
    """
    needed = layout.bytes / _GIGA
    what = f"the cache would take {needed:,.3g} GB ({layout.views} x {layout.images:,} images)"
    if max_gb is not None and needed > max_gb:
        raise InputError(f"{what}, --max-gb is {max_gb:g}; use fewer --views or a larger --max-gb")
    above = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(above).free / _GIGA
    if needed > free:
        raise InputError(f"{what}, and {above} has {free:,.3g} GB left; use fewer --views, or --out on another disk")


def write_cache(
    folder: Path,
    guide: Guide,
    images: Images,
    draw: Draw,
    *,
    identity: Identity,
    layout: Layout,
    about: Mapping[str, Any],
    device: str,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cache, or the rest of an interrupted one.

    Args:
        folder: final folder; must not exist.
        guide: the guide whose teacher is run.
        images: the training images.
        draw: creates the student's images.
        identity, layout, about: of the cache.
        batch_size: images per batch.
        progress: called with (done, total) rows.

    Raises:
        BusyError: another process is writing it.
        NonFiniteError: a feature of the teacher is not finite.
        InputError: a feature exceeds the range of the storage format.
    """
    writer = Writer(folder, identity, layout, about)
    recorded = time.monotonic()
    try:
        while writer.done < writer.total:
            view, first = divmod(writer.done, len(images))
            index = torch.arange(first, min(first + batch_size, len(images)))
            images.check(index)
            pixels = images.pixels[index].to(device)
            said = guide.teach(draw(pixels, images.sizes[index], index, view))
            values = zip(layout.shapes, said.stored(), strict=True)
            writer.add({name: _stored(name, value, layout) for name, value in values})
            if progress is not None:
                progress(writer.done, writer.total)
            if time.monotonic() - recorded > _SECONDS_BETWEEN_RECORDS:
                writer.record()
                recorded = time.monotonic()
        return writer.finish()
    except BaseException:
        with suppress(OSError):
            writer.record()
        raise
    finally:
        writer.close()


def _stored(name: str, values: Tensor, layout: Layout) -> NDArray[Any]:
    plain = values.float().cpu().numpy()
    with np.errstate(over="ignore"):
        rows = plain.astype(layout.dtype)
    if not np.isfinite(rows).all():
        largest = float(np.abs(plain).max())
        if not np.isfinite(largest):
            raise NonFiniteError(
                f"the teacher's {name} is not finite for some image and cannot be cached; train the teacher again "
                "with a lower optimizer.lr"
            )
        raise InputError(f"the teacher's {name} reaches {largest:.3g}, beyond the largest fp16; use --storage fp32")
    return rows
