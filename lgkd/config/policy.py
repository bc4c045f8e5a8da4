"""Parse RandAugment's notation, for recipes and for Python."""

import math
import re

from lgkd._internal.text import safe_text

_TOKEN = re.compile(r"(m|n|p|mstd|mmax|inc)([0-9]{1,15}(?:\.[0-9]{0,15})?)")
_WHOLE = {"m": (0, 100), "n": (0, 15), "mmax": (1, 100), "inc": (0, 1)}


def read_policy(text: str) -> dict[str, float]:
    """Parse a policy in timm's notation, such as "rand-m9-mstd0.5-inc1", into its parts by name.

    Raises:
        ValueError: the text does not follow the notation; the message names the part.
    """
    head, *tokens = str(text).split("-")
    if head != "rand":
        raise ValueError("expected timm's notation, such as 'rand-m9-mstd0.5-inc1'")
    found: dict[str, float] = {}
    for token in tokens:
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ValueError(
                f"cannot read {safe_text(token)!r}; expected parts like m9, n2, mstd0.5, mmax10, inc1, p0.5"
            )
        key, value = match[1], float(match[2])
        if key in found:
            raise ValueError(f"{token!r} sets {key} a second time; give it once")
        low, high = _WHOLE.get(key, (0, 1 if key == "p" else math.inf))
        if not low <= value <= high or (key in _WHOLE and not value.is_integer()):
            sort = "a whole number" if key in _WHOLE else "a number"
            raise ValueError(f"{token!r} is out of range; {key} is {sort} from {low} to {high}")
        found[key] = value
    return found
