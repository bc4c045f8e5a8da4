"""Compute perceptual hashes: they stay when an image is saved again, smaller or at lower quality.

The hash is ImageHash's pHash, the signs of the lowest 8 x 8 frequencies: two images of unlike things seldom have nearly
the same, but simple shapes before a plain ground do. So a small picture in colour is kept beside it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
"""Side of the small picture, in pixels. Images with a shorter side are too small to distinguish copies."""

_LONGEST = 256
_FLAT = 4.0


class Trace(NamedTuple):
    """Hold the parts of an image that are compared."""

    phash: int
    """64 bits."""
    picture: bytes
    """SIDE x SIDE x 3, RGB."""


def trace_of(pixels: NDArray[np.uint8]) -> Trace | None:
    """Compute the trace of an image, uint8 (H,W,3); None of one that is too small, or has one colour all over."""
    from imagehash import phash  # takes a second to import

    height, width = pixels.shape[:2]
    if min(height, width) < SIDE:
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(height, width)
    if longest > _LONGEST:
        sides = (max(SIDE, round(side * _LONGEST / longest)) for side in image.size)
        image = image.resize(tuple(sides), Image.Resampling.BICUBIC)
    picture = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    if picture.std(axis=(0, 1)).max() < _FLAT:
        return None
    bits = np.packbits(phash(image).hash.reshape(-1))
    return Trace(int.from_bytes(bits.tobytes(), "big"), picture.tobytes())
