"""Draw operations and their strengths on the host: RandAugment and colour jitter.

RandAugment (Cubuk et al., 2019) in the variant and the notation of timm: "rand-m9-mstd0.5-inc1" draws for
each image two operations with replacement, applies each with probability 1/2, at a magnitude drawn
around 9 of 10. The arguments that follow from a magnitude are timm's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lgkd.config.policy import read_policy
from lgkd.errors import InputError

Array = NDArray[np.float64]

KINDS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
UNTOUCHED = -1

_DRAWS_PER_LAYER = 5  # kind, whether, magnitude twice (a normal number takes two), sign
_JITTERED = tuple(KINDS.index(kind) for kind in ("brightness", "contrast", "colour"))


@dataclass(frozen=True)
class Layer:
    """Hold one operation for each image of a batch.

    Attributes:
        kind: int64 (B,), places in `KINDS`, or UNTOUCHED.
        strength: float64 (B,), the operation's argument: bits, levels, a factor, degrees, or a share
            of the side.
    """

    kind: NDArray[np.int64]
    strength: Array


def _enhancement(level: Array, sign: Array, increasing: bool) -> Array:
    if increasing:
        return np.maximum(0.1, 1.0 + sign * (level / 10.0 * 0.9))
    return level / 10.0 * 1.8 + 0.1


def _posterize_bits(level: Array, _: Array, increasing: bool) -> Array:
    bits = np.trunc(level / 10.0 * 4.0)
    # timm goes down to 0 bits, which makes a black image and which Pillow 13 refuses.
    return np.maximum(1.0, 4.0 - bits if increasing else bits)


def _solarize_threshold(level: Array, _: Array, increasing: bool) -> Array:
    threshold = np.minimum(256.0, np.trunc(level / 10.0 * 256.0))
    return 256.0 - threshold if increasing else threshold


def _solarize_amount(level: Array, _: Array, __: bool) -> Array:
    return np.minimum(128.0, np.trunc(level / 10.0 * 110.0))


def _signed(reach: float) -> Callable[[Array, Array, bool], Array]:
    return lambda level, sign, _: sign * (level / 10.0 * reach)


def _none(level: Array, _: Array, __: bool) -> Array:
    return np.zeros_like(level)


_STRENGTH: dict[str, Callable[[Array, Array, bool], Array]] = {
    "autocontrast": _none,
    "equalize": _none,
    "invert": _none,
    "rotate": _signed(30.0),
    "posterize": _posterize_bits,
    "solarize": _solarize_threshold,
    "solarize_add": _solarize_amount,
    "colour": _enhancement,
    "contrast": _enhancement,
    "brightness": _enhancement,
    "sharpness": _enhancement,
    "shear_x": _signed(0.3),
    "shear_y": _signed(0.3),
    "translate_x": _signed(0.45),
    "translate_y": _signed(0.45),
}


def strength_of(kind: str, level: Array, sign: Array, increasing: bool) -> Array:
    """Return the argument of an operation at magnitude `level` (of 10) with a random `sign` of +-1; all (n,)."""
    return _STRENGTH[kind](level, sign, increasing)


@dataclass(frozen=True)
class RandAugment:
    """Hold a parsed policy.

    Attributes:
        magnitude: the mean of the drawn magnitudes ("m").
        layers: number of operations for an image ("n").
        spread: standard deviation of the magnitude ("mstd"); infinite: uniform in [0, magnitude].
        ceiling: magnitudes are clipped to [0, ceiling] ("mmax").
        increasing: operations that all grow with the magnitude ("inc").
        probability: that a drawn operation is applied ("p").
    """

    magnitude: int = 10
    layers: int = 2
    spread: float = 0.0
    ceiling: int = 10
    increasing: bool = False
    probability: float = 0.5

    @property
    def draws(self) -> int:
        """Return the number of uniform numbers that an image needs."""
        return self.layers * _DRAWS_PER_LAYER

    def draw(self, uniforms: Array) -> list[Layer]:
        """Compute the layers of a batch from uniform numbers (B, draws) in [0, 1)."""
        return [self._layer(part) for part in np.split(uniforms, self.layers, axis=1)] if self.layers else []

    def _layer(self, u: Array) -> Layer:
        kind = np.floor(u[:, 0] * len(KINDS)).astype(np.int64)
        level = self._level(u[:, 2], u[:, 3])
        sign = np.where(u[:, 4] < 0.5, 1.0, -1.0)
        strength = np.zeros(len(u))
        for number, name in enumerate(KINDS):
            of_kind = kind == number
            strength[of_kind] = strength_of(name, level[of_kind], sign[of_kind], self.increasing)
        return Layer(np.where(u[:, 1] < self.probability, kind, UNTOUCHED), strength)

    def _level(self, first: Array, second: Array) -> Array:
        level = np.full(len(first), float(self.magnitude))
        if math.isinf(self.spread):
            level = level * first
        elif self.spread > 0:
            normal = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
            level = level + self.spread * normal
        clipped: Array = np.clip(level, 0.0, self.ceiling)
        return clipped


def parse(text: str) -> RandAugment:
    """Parse a policy in timm's notation, such as "rand-m9-mstd0.5-inc1".

    Parts, in any order: m magnitude (default 10), n operations an image (2), mstd spread of the magnitude
    (0; above 100: uniform), mmax largest magnitude (10), inc 0 or 1 (0), p probability (0.5).

    Raises:
        InputError: the text does not follow the notation; the message names the part.
    """
    try:
        found = read_policy(text)
    except ValueError as error:
        raise InputError(f"rand_augment is {text!r}: {error}") from None
    spread = found.get("mstd", 0.0)
    return RandAugment(
        magnitude=int(found.get("m", 10)),
        layers=int(found.get("n", 2)),
        spread=math.inf if spread > 100 else spread,
        ceiling=int(found.get("mmax", 10)),
        increasing=bool(found.get("inc", 0)),
        probability=found.get("p", 0.5),
    )


JITTER_DRAWS = 6


def jitter(uniforms: Array, amount: float) -> list[Layer]:
    """Draw brightness, contrast and saturation in a random order, each by a factor within 1 +- `amount`.

    As torchvision's ColorJitter(amount, amount, amount); from uniform numbers (B, JITTER_DRAWS).
    """
    low = max(0.0, 1.0 - amount)
    factor = low + (1.0 + amount - low) * uniforms[:, :3]
    order = np.argsort(uniforms[:, 3:6], axis=1, kind="stable")
    kinds = np.asarray(_JITTERED, dtype=np.int64)
    rows = np.arange(len(uniforms))
    return [Layer(kinds[order[:, place]], factor[rows, order[:, place]]) for place in range(3)]
