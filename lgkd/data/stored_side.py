"""Reduce decoded training images to the size that a training needs, so that large photographs take less memory."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lgkd.config import View
from lgkd.data.dataset import Images
from lgkd.data.decode import Allocate
from lgkd.data.decoded_cache import Stored, kept, published_key

_CHUNK = 64


def needed_side(view: View, image_sizes: Sequence[tuple[int, int]]) -> int:
    """Compute the shorter side, in pixels, that stored images need so that no view of a square one is enlarged.

    A random-resized crop takes a share of the area from view.scale on: with the smallest share s its side is sqrt(s) of
    the image's, and the result needs 1 / sqrt(s) as many pixels. A view of the whole image needs those of the result.

    Args:
        view: of the training.
        image_sizes: (height, width) of the student's images, and of those that are drawn anew for teachers.
    """
    longest = max(max(size) for size in image_sizes)
    return math.ceil(longest / math.sqrt(view.scale[0])) if view.crop == "random-resized" else longest


def reduce_images(images: Images, side: int, *, key: str, fingerprint: str) -> Images:
    """Scale images down whose shorter side exceeds `side`, antialiased bicubic, aspect kept; keep them in the store.

    Smaller ones keep their pixels. The canvas is square where it was, or where sizes differ.

    Args:
        images: decoded.
        side: of the shorter side, in pixels.
        key, fingerprint: of their data set, which with their names identify the stored copy.
    """
    sizes = images.sizes.numpy().astype(np.int64)
    shorter = sizes.min(axis=1)
    if (shorter <= side).all():
        return images
    wanted = sizes.copy()
    large = shorter > side
    wanted[large] = np.maximum(1, np.rint(sizes[large] * (side / shorter[large, None])).astype(np.int64))
    height, width = (int(most) for most in wanted.max(axis=0))
    if images.pixels.shape[2] == images.pixels.shape[3]:
        height = width = max(height, width)

    def make(allocate: Allocate) -> Stored:
        images.check()
        pixels = allocate((len(images), 3, height, width))
        _lay(images.pixels.numpy(), sizes, wanted, np.asarray(pixels))
        return Stored(pixels, wanted.astype(np.int32), fingerprint)

    which = sha256("\0".join(images.names).encode("utf-8", "surrogateescape")).hexdigest()
    stored = kept(published_key(f"reduced to {side}: {key} {which}", [fingerprint]), len(images), make)
    return Images(
        torch.from_numpy(stored.pixels), torch.from_numpy(stored.sizes), images.labels, images.names, stored.rows
    )


def _lay(
    pixels: NDArray[np.uint8], sizes: NDArray[np.int64], wanted: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Resize every image into its place of `out`; the rest of the canvas repeats its border."""

    def some(start: int) -> None:
        for place in range(start, min(start + _CHUNK, len(pixels))):
            (rows, columns), (height, width) = sizes[place], wanted[place]
            image = Image.fromarray(np.ascontiguousarray(pixels[place, :, :rows, :columns].transpose(1, 2, 0)))
            if (rows, columns) != (height, width):
                image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
            slot = out[place]
            slot[:, :height, :width] = np.asarray(image).transpose(2, 0, 1)
            slot[:, :height, width:] = slot[:, :height, width - 1 : width]
            slot[:, height:] = slot[:, height - 1 : height]

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(some, range(0, len(pixels), _CHUNK)))
