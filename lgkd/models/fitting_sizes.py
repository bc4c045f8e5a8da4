"""Name image sizes and patch sizes that fit a model, for the messages that refuse others."""

from collections.abc import Callable
from math import gcd

from lgkd.errors import LgkdError

_STEPS = (8, 16, 32)
_MOST_PIXELS = 512 * 512
_NAMED = 2


def multiples_near(image_size: tuple[int, int], step: int) -> str:
    """Name the sizes next below and above an image's whose sides are multiples of a step: "32 x 48 or 32 x 52"."""
    below = [step * max(1, side // step) for side in image_size]
    above = [step * max(1, -(-side // step)) for side in image_size]
    return " or ".join(dict.fromkeys(f"{height} x {width}" for height, width in (below, above)))


def dividing_patches(image_size: tuple[int, int]) -> str:
    """List the patch sizes from 2 px to an eighth of the shorter side that divide both sides; "" where none does."""
    common = gcd(*image_size)
    return ", ".join(str(side) for side in range(2, max(2, min(image_size) // 8) + 1) if common % side == 0)


def sizes_that_fit(try_size: Callable[[tuple[int, int]], object], image_size: tuple[int, int]) -> list[str]:
    """Try sizes near one that a model refuses, and return at most two that it takes: multiples of 8 to 32, and squares.

    Args:
        try_size: builds the model and raises an LgkdError where it does not fit.
        image_size: the refused (height, width), in pixels.
    """
    near = [(step * max(1, round(image_size[0] / step)), step * max(1, round(image_size[1] / step))) for step in _STEPS]
    squares = [(side, side) for side in sorted({32 * max(1, round(side / 32)) for side in image_size})]
    found: list[str] = []
    for size in dict.fromkeys([*near, *squares]):
        if size == image_size or size[0] * size[1] > _MOST_PIXELS or len(found) == _NAMED:
            continue
        try:
            try_size(size)
        except LgkdError:
            continue
        found.append(f"{size[0]} x {size[1]}")
    return found
