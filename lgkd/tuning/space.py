"""Read a search space: keys of a recipe, each with a range or choices. No torch, no Optuna."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd._internal.text import safe_text
from lgkd.config.yaml_io import read_yaml
from lgkd.errors import InputError, MissingError

_DIGITS = 4
_RANGE = re.compile(r"(log:)?\s*([^,\s]+?)\.\.([^,\s]+)")
_WHOLE = re.compile(r"[+-]?\d+")
_MOST = 50
_FORM = "write it like optimizer.lr=log:1e-4..1e-2, drop_path=0.0..0.2, batch_size=32..128 or sampler=shuffled,balanced"


@dataclass(frozen=True)
class Range:
    """Hold a range of numbers, both ends included.

    Attributes:
        low, high: the ends; whole numbers where both are written as such.
        log: uniform in the logarithm.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Return true if only whole numbers are searched."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values that are checked before the first trial."""
        return self.low, self.high

    def value(self, found: Any) -> Any:
        """Round a number to four significant digits, within the range: the value that is trained with."""
        if self.whole:
            return int(found)
        return min(max(float(f"{found:.{_DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return f"{'log:' if self.log else ''}{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Choices:
    """Hold the values of a key that are tried."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values that are checked before the first trial: all."""
        return self.values

    def value(self, found: Any) -> Any:
        """Return the value that is trained with."""
        return found

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return ",".join(one if isinstance(one, str) else json.dumps(one) for one in self.values)


Space = dict[str, Range | Choices]


def read_space(searches: Sequence[str] = (), file: str | Path | None = None) -> Space:
    """Read a search space from words of the command line, and from a YAML file that maps keys to the same.

    Args:
        searches: `KEY=SPACE` each, where SPACE is `LOW..HIGH`, `log:LOW..HIGH` or `A,B,C`; they replace keys of the
            file.
        file: maps keys to such text, or to a list of values.

    Raises:
        InputError: there is nothing to search, or an entry cannot be read.
        MissingError: there is no such file.
    """
    space: Space = {}
    for key, given in _entries(file).items() if file is not None else ():
        space[key] = _choices(key, given) if isinstance(given, list) else _parse(key, str(given))
    for one in searches:
        key, equals, text = one.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--search {safe_text(one)!r} has no KEY=SPACE; {_FORM}")
        space[key.strip()] = _parse(key.strip(), text)
    if not 0 < len(space) <= _MOST:
        raise InputError(
            f"the search space has {len(space)} keys, expected 1 to {_MOST}; name some by --search: {_FORM}"
        )
    return space


def assignments(space: Space, values: dict[str, Any]) -> list[str]:
    """Return the overrides of a recipe, `KEY=VALUE` each, for one value of each key."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
        if key in space
    ]


def _entries(file: str | Path) -> dict[str, Any]:
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"there is no {path}; expected a YAML file with a search space, as --space") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a YAML file with a search space") from None
    document = read_yaml(text)
    if document.problems:
        raise InputError(f"{path}: {document.problems[0]}")
    if not isinstance(document.values, dict):
        raise InputError(f"{path} maps no keys; expected lines like optimizer.lr: log:1e-4..1e-2")
    return {str(key): value for key, value in document.values.items()}


def _parse(key: str, text: str) -> Range | Choices:
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        if text.strip().startswith("log:") or ".." in text:
            raise InputError(f"--search {key}={safe_text(text)!r} is no range; {_FORM}")
        read = read_yaml(f"[{text}]")
        return _choices(key, [] if read.problems else read.values)
    ends = [found[2], found[3]]
    whole = all(_WHOLE.fullmatch(end) for end in ends)
    try:
        low, high = (int(end) if whole else float(end) for end in ends)
    except ValueError:
        raise InputError(f"--search {key}={safe_text(text)!r} has ends that are no numbers; {_FORM}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"--search {key}={safe_text(text)!r} has no values, expected a smaller number before '..'")
    if found[1] and low <= 0:
        raise InputError(f"--search {key}={safe_text(text)!r} starts at {low:g}, and a logarithm needs numbers above 0")
    return Range(low, high, log=bool(found[1]))


def _choices(key: str, values: Any) -> Choices:
    proper = isinstance(values, list) and all(
        isinstance(one, bool | int | float | str) or one is None for one in values
    )
    if not proper or len(values) < 2 or len({json.dumps(one) for one in values}) != len(values):
        raise InputError(f"--search {key} needs two or more different values or a range; {_FORM}")
    return Choices(tuple(values))
