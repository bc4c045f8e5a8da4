"""Cut stored images into a training and a test split."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd.data.dataset import Images
from lgkd.data.decoded_cache import Stored


def cut_splits(
    pixels: NDArray[np.uint8], sizes: NDArray[np.int32], labels: Tensor, names: tuple[str, ...], cut: int
) -> tuple[Images, Images]:
    """Return the first `cut` images, to train on, and the others."""
    pixels_NCST, sizes_N2 = _tensor(pixels), _tensor(sizes)
    return (
        Images(pixels_NCST[:cut], sizes_N2[:cut], labels[:cut], names[:cut]),
        Images(pixels_NCST[cut:], sizes_N2[cut:], labels[cut:], names[cut:]),
    )


def guarded(parts: tuple[Images, Images], stored: Stored) -> tuple[Images, Images]:
    """Make both splits of stored images compare their pixels with the written ones before they are first read."""
    train, test = parts
    return replace(train, rows=stored.rows), replace(test, rows=stored.rows, first=len(train))


def _tensor(array: NDArray[np.uint8] | NDArray[np.int32]) -> Tensor:
    with warnings.catch_warnings():
        # A mapping that may only be read cannot be had without the warning; images are never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
