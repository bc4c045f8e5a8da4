"""What the fuzzing of readers draws from: bytes, spoilt files and JSON of any kind; and what is asked of a reader."""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lgkd.errors import LgkdError

EXAMPLES = int(os.environ.get("LGKD_FUZZ_EXAMPLES", "0"))
"""Examples of every test; 0: few, as an ordinary run has time for."""

LONGEST_LINE = 1200
MOST_MEMORY = 300
"""MB that reading a file of some kilobytes may cost at its peak, all examples of a test together."""

Value = TypeVar("Value")


def many(ordinary: int) -> settings:
    """So many examples in an ordinary run, and as many as the environment says otherwise."""
    # A machine with other work makes times mean nothing; a reader that hangs meets the timeout of the suite.
    return settings(
        max_examples=EXAMPLES or ordinary,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


def memory() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def given_or_told(read: Callable[[], Value], file: Path, data: bytes, *, lines: bool = False) -> Value | None:
    """What a reader makes of a file with these bytes; None where it refuses it in words.

    Whatever else it does fails the test: another exception, a message that does not name the file or is not readable,
    and a file that is changed, gone or not alone any more.

    Args:
        read: reads the file.
        file: where the bytes are put.
        data: the bytes.
        lines: whether a message may have several lines.
    """
    file.write_bytes(data)
    around = sorted(file.parent.iterdir())
    try:
        return read()
    except LgkdError as error:
        readable(str(error), file, lines=lines)
        return None
    finally:
        assert file.read_bytes() == data
        assert sorted(file.parent.iterdir()) == around


def folder_of(desk: Path, name: str) -> Path:
    (desk / name).mkdir(exist_ok=True)
    return desk / name


def readable(message: str, file: Path, *, lines: bool = False) -> None:
    assert file.name in message, message[:500]
    told = message.split("\n")
    assert lines or len(told) == 1, message[:500]
    for line in told:
        assert line.isprintable(), message[:500]
        assert len(line) <= LONGEST_LINE, len(line)


# JSON

_ODD_NUMBERS = [0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 1.5, -0.0, 1e308, float("inf"), float("nan")]
_ODD_WORDS = [
    "",
    " ",
    "\x00",
    "a\nb",
    "\x1b[31mred",
    "\u202edrow",
    "\ud800",
    "../../etc/passwd",
    "/",
    "é" * 300,
    "null",
]

odd_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(_ODD_NUMBERS), st.sampled_from(_ODD_WORDS)
) | st.text(max_size=20)

any_json = st.recursive(
    odd_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

PITS = [
    b"",
    b"\x00" * 40,
    b"\xef\xbb\xbf{}",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b'{"format": 1}',
    b'{"format": 1, "format": 2}',
    b"\x80\x04K\x01.",
    b"\xff\xfe{\x00}\x00",
]
"""Bytes in which readers of text and JSON like to fall."""


def places(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a value made of dictionaries and lists."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [path for key in keys for path in [(*so_far, key), *places(value[key], (*so_far, key))]]


@st.composite
def changed_json(draw: st.DrawFn, whole: Any) -> Any:
    """A value with one to three of its parts exchanged, dropped or joined by others."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value) or [()]))
        if not path:
            return draw(any_json)
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        how = draw(st.integers(0, 3))
        if how == 0:
            del inner[path[-1]]
        elif how == 1 and isinstance(inner, dict):
            inner[draw(st.text(max_size=12) | st.sampled_from(_ODD_WORDS))] = draw(any_json)
        else:
            inner[path[-1]] = draw(any_json)
    return value


# Bytes


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes, tokens: tuple[bytes, ...] = ()) -> bytes:
    """Bytes of which some are cut out, doubled, exchanged or joined by others."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 1, 1, 2, 8, 64, 10_000])))
        how = draw(st.integers(0, 3))
        if how == 0:
            del data[begin:end]
        elif how == 1:
            data[begin:begin] = data[begin:end]
        elif how == 2 and tokens:
            data[begin:begin] = draw(st.sampled_from(tokens))
        else:
            data[begin:end] = draw(st.binary(max_size=8))
    return bytes(data)


def files(whole: bytes, tokens: tuple[bytes, ...] = ()) -> st.SearchStrategy[bytes]:
    """Files that begin as a good one, and others."""
    return st.one_of(spoilt(whole, tokens), spoilt(whole, tokens), st.binary(max_size=200), st.sampled_from(PITS))


def as_json(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **how).encode("utf-8", "surrogatepass")
