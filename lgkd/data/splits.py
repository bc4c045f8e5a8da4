"""Cut stored images into splits."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.data.decoded_cache import Stored


def cut_splits(
    pixels: NDArray[np.uint8],
    sizes: NDArray[np.int32],
    labels: Tensor,
    names: tuple[str, ...],
    lengths: Sequence[int],
) -> list[Images]:
    """Return consecutive splits of some lengths."""
    pixels_NCST, sizes_N2 = _tensor(pixels), _tensor(sizes)
    ends = list(accumulate(lengths))
    parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [Images(pixels_NCST[part], sizes_N2[part], labels[part], names[part]) for part in parts]


def guarded(parts: Sequence[Images], stored: Stored) -> list[Images]:
    """Make the splits of stored images compare their pixels with the written ones before they are first read."""
    starts = accumulate((len(part) for part in parts), initial=0)
    return [replace(part, rows=stored.rows, first=first) for part, first in zip(parts, starts, strict=False)]


def _tensor(array: NDArray[np.uint8] | NDArray[np.int32]) -> Tensor:
    with warnings.catch_warnings():
        # A mapping that may only be read cannot be had without the warning; images are never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
