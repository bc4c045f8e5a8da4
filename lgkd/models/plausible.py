"""Check sizes requested by a file against the weights in it, before a model is built from them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lgkd._internal.text import safe_text
from lgkd.errors import InputError

MAX_PIXELS = 4096 * 4096
"""Pixels of an image that an untrusted file may ask for."""

_SURE = 1024
"""Number below which no weights have to justify a size: such a model is built within seconds."""

_REPEATED = ("depth", "layer", "block")


def check_plausible(
    origin: Path,
    options: Mapping[str, Any],
    num_classes: int,
    image_size: Sequence[int],
    weights: Mapping[str, Tensor],
) -> None:
    """Refuse sizes that the weights contradict, before hours or all memory are spent on building such a model.

    Args:
        origin: the file that asks for them.
        options: of the model's constructor. One that counts layers cannot exceed the number of tensors, and no
            other the longest side of any, unless it is small.
        num_classes: width of the logits.
        image_size: (height, width) in pixels.
        weights: of the trained model.

    Raises:
        InputError: a size cannot be that of these weights, or is out of all bounds.
    """
    height, width = image_size
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{origin} asks for images of {height:,} x {width:,} pixels, expected at most {MAX_PIXELS:,} in all; it is "
            "damaged or a different file"
        )
    longest = max((side for tensor in weights.values() for side in tensor.shape), default=0)
    for key, number in [("num_classes", num_classes), *_numbers(options)]:
        repeated = any(word in key for word in _REPEATED)
        most = len(weights) if repeated else max(longest, _SURE)
        if number > most:
            raise InputError(
                f"{origin} asks for {safe_text(key, 200)} {number:,}, expected at most {most:,} by the weights beside "
                "it; it is damaged or a different file"
            )


def _numbers(options: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of options, lists of them included."""
    for key, value in options.items():
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, list | tuple):
                waiting.extend(one)
            elif isinstance(one, int) and not isinstance(one, bool):
                yield key, one
            elif isinstance(one, float) and one.is_integer():
                yield key, int(one)
