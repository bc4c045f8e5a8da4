"""Scale greys of more than 8 bits to 8, by a black and a white value.

A file of 16 bits seldom uses them all: X-ray and microscopes have 10, 12 or 14. The scale is chosen once, from the
training images, stored with the student, and used for every image that it sees afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from lgkd._internal.text import safe_text
from lgkd.errors import InputError

Kind = Literal["whole", "float", "colour"]
Ends = tuple[float, float]

FULL: Ends = (0, 65535)
"""Black and white of whole numbers where nothing else is known: all that 16 bits can hold."""

_MOST_BITS = 16
_FEW = 4
"""Part of a depth; where less is in use, the range in use is scaled instead."""
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


class Range(NamedTuple):
    """Hold the range of values of one image of more than 8 bits."""

    kind: Kind
    """"colour": Pillow reads the upper 8 bits only, and `low` and `high` are of these."""
    low: float
    high: float
    inverted: bool
    """True if its file stores white as 0."""


@dataclass(frozen=True)
class Greys:
    """Hold black and white in greys of more than 8 bits.

    Attributes:
        whole: of whole numbers; None: no training image had such, and they are taken to fill 16 bits.
        floats: of floating-point numbers; None: no training image had such, and they cannot be read.
        inverts: whether a file that stores white as 0 is inverted; older versions did not.
    """

    whole: Ends | None = None
    floats: Ends | None = None
    inverts: bool = True

    def kept(self) -> dict[str, dict[str, list[float]] | None]:
        """Return the choice under the key "greys", for a card; no key for the way of older versions."""
        ends = {"whole": self.whole, "float": self.floats}
        chosen = {name: list(some) for name, some in ends.items() if some is not None}
        return {"greys": chosen or None} if self.inverts else {}


UNKNOWN = Greys()
"""Scale of training images without such greys."""

BEFORE = Greys(inverts=False)
"""Scale of students that were trained before there was a choice."""


def read_greys(about: Mapping[str, Any], origin: object) -> Greys:
    """Read the result of `Greys.kept`; a mapping without the key is of an older version.

    Args:
        about: such as a student.json.
        origin: for the message.

    Raises:
        InputError: the key holds something else.
    """
    if "greys" not in about:
        return BEFORE
    found = about["greys"]
    if found is None:
        return Greys()
    if isinstance(found, dict) and found.keys() <= {"whole", "float"} and all(_are_ends(one) for one in found.values()):
        whole, floats = ((tuple(found[name]) if name in found else None) for name in ("whole", "float"))
        return Greys(whole, floats)
    raise InputError(
        f"{origin} has greys that are {safe_text(repr(found)[:100])}, expected black and white as two rising numbers; "
        "it is damaged or something else"
    )


def _are_ends(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) in (int, float) and math.isfinite(one) for one in value)
        and value[0] < value[1]
    )


def is_deep(image: Image.Image) -> bool:
    """Return True where the head of an image has more than 8 bits a channel."""
    return has_deep_greys(image) or ";16" in str(getattr(image, "tile", ""))


def has_deep_greys(image: Image.Image) -> bool:
    """Return True for a grey image of more than 8 bits, all of which Pillow gives."""
    return image.mode.startswith("I") or image.mode == "F"


def range_of(image: Image.Image) -> Range:
    """Find the values that an image uses, for which it is decoded.

    Raises:
        ValueError: a value is not a number.
    """
    image.load()
    if not has_deep_greys(image):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        return Range("colour", int(low), int(high), False)
    values = _values(image)
    low, high = values.min().item(), values.max().item()
    return Range("float" if image.mode == "F" else "whole", low, high, is_inverted(image))


def as_eight_bits(image: Image.Image, greys: Greys) -> Image.Image:
    """Scale deep greys to 8 bits; values beyond black and white become these.

    Raises:
        ValueError: their white is unknown.
    """
    values = _values(image)
    if image.mode == "F":
        if greys.floats is None:
            raise ValueError("its grey values are not of 8 or 16 bits, so their white is unknown")
        black, white = greys.floats
        levels = np.floor((values.astype(np.float64) - black) / (white - black) * 255 + 0.5)
    else:
        if greys.whole is None and (values.min() < 0 or values.max() > FULL[1]):
            raise ValueError("its grey values are not of 8 or 16 bits, so their white is unknown")
        first, last = (int(end) for end in greys.whole or FULL)
        span = last - first
        levels = ((values.astype(np.int64) - first) * 255 + span // 2) // span
    levels = np.clip(levels, 0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if greys.inverts and is_inverted(image) else levels)


def _values(image: Image.Image) -> np.ndarray[Any, Any]:
    values = np.asarray(image)
    if image.mode == "F" and not np.isfinite(values).all():
        raise ValueError("its grey values are not all numbers; replace those that are not")
    return values


def is_inverted(image: Image.Image) -> bool:
    """Return True for a TIFF that stores white as 0."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def choose(ranges: Sequence[Range]) -> Greys:
    """Choose black and white by the training images.

    Whole numbers are scaled by the depth in use, the fewest bits that hold them all (values up to 4,051: 12 bits, from
    0 to 4,095); where they use less than a quarter of it, are negative or need more than 16 bits, by the range in use.
    Floating-point numbers are scaled from 0 to 1 where all are in that range, else by the range in use.
    """
    whole = [one for one in ranges if one.kind == "whole"]
    floats = [one for one in ranges if one.kind == "float"]
    return Greys(_of_whole(*_reach(whole)) if whole else None, _of_floats(*_reach(floats)) if floats else None)


def _reach(ranges: Sequence[Range]) -> Ends:
    return min(one.low for one in ranges), max(one.high for one in ranges)


def _of_whole(low: float, high: float) -> Ends:
    bits = max(8, int(high).bit_length())
    fits = low >= 0 and bits <= _MOST_BITS
    if low == high:
        return FULL if fits else (low, low + 1)
    return (0, 2**bits - 1) if fits and (high - low + 1) * _FEW >= 2**bits else (low, high)


def _of_floats(low: float, high: float) -> Ends:
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (low, high) if low < high else (low, low + 1.0)


class Scale:
    """Choose the scale of a data set's deep greys while it is decoded, and report the choice.

    Args:
        train: number of images, the first ones, that are trained on.
        given: choice of an earlier training; None: it is chosen now.
    """

    def __init__(self, train: int, given: Greys | None = None) -> None:
        self.given = given
        self.greys = given or Greys()
        self.notes: tuple[str, ...] = ()
        self.deep = 0
        self._train = train

    def __call__(self, ranges: Mapping[int, Range]) -> Greys:
        """Choose by the ranges of the deep images among all, by place."""
        self.deep = len(ranges)
        trained = [one for place, one in ranges.items() if place < self._train]
        if self.given is None:
            self.greys = choose(trained)
        self.notes = (*self._about("whole", ranges), *self._about("float", ranges), *_about_others(ranges, self.greys))
        return self.greys

    def about(self) -> dict[str, Any]:
        """Return the facts on the decoding that are stored beside decoded images."""
        return {**self.greys.kept(), "deep": self.deep, "said": list(self.notes)}

    def _about(self, kind: Kind, ranges: Mapping[int, Range]) -> list[str]:
        mine = {place: one for place, one in ranges.items() if one.kind == kind}
        ends = self.greys.whole if kind == "whole" else self.greys.floats
        if not mine:
            return []
        trained = [one for place, one in mine.items() if place < self._train]
        if ends is None:
            if kind == "whole" and self.given is not None and self.given.inverts:
                return [f"{_images(len(mine))} with greys of more than 8 bits, which the student's training images did "
                        "not have: scaled from 0 to 65,535"]  # fmt: skip
            return []
        black, white = (f"{end:,g}" if kind == "float" else f"{end:,}" for end in ends)
        said = []
        if self.given is not None:
            said.append(f"{_images(len(mine))} with greys of more than 8 bits, scaled from {black} to {white} as in "
                        "the student's training")  # fmt: skip
        elif trained and (kind == "float" or ends != FULL):
            low, high = (f"{end:,g}" if kind == "float" else f"{end:,}" for end in _reach(trained))
            numbers = "floating-point numbers" if kind == "float" else "whole numbers of more than 8 bits"
            said.append(
                f"{_images(len(trained), 'training ')} with greys that are {numbers}, from {low} to {high}: scaled to "
                f"8 bits from {black} (black) to {white} (white), which is kept with the student"
            )
        beyond = sum(one.low < ends[0] or one.high > ends[1] for one in mine.values())
        if beyond:
            said.append(f"{_images(beyond)} with greys beyond {black} to {white}, which become black or white")
        return said


def _about_others(ranges: Mapping[int, Range], greys: Greys) -> list[str]:
    said = []
    if greys.inverts and (inverted := sum(one.inverted for one in ranges.values())):
        said.append(f"{_images(inverted)} that store white as 0: inverted")
    colours = [one for one in ranges.values() if one.kind == "colour"]
    if colours and max(one.high for one in colours) < 128:
        said.append(
            f"{_images(len(colours))} with colours of 16 bits, of which the upper 8 are read, and these reach "
            f"{max(one.high for one in colours)} of 255 only: scale them to the whole range before"
        )
    return said


def _images(number: int, which: str = "") -> str:
    return f"{number:,} {which}image{'' if number == 1 else 's'}"
