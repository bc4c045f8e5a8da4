"""Format text for messages: one-line escapes and the closest known names."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import takewhile

ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that break a line or change the direction of writing; without line feeds and tabs."""

_FIRST_LETTERS = 4
"""Length of a common beginning that counts for more than the rest of a name."""


def safe_text(text: str, limit: int = 60) -> str:
    """Return `text` on one line, free of control characters and not longer than `limit` characters."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def visible(text: str) -> str:
    """Return `text` with every character that would act on a terminal or a page escaped, like \\x1b."""
    return ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """Escape as `visible`, and line feeds and tabs as well."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def counted(number: float, noun: str) -> str:
    """Format a number with its noun, as in "1 class" and "1,200 classes"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Join names with commas; of a long list the first ones, and the total."""
    return ", ".join(names[:most]) + (f", ... ({len(names):,} in all)" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a half sentence with the closest known names, or with all of a short list."""
    names = sorted(set(known))
    close = list(dict.fromkeys([*_begun_alike(name, names), *get_close_matches(name, names, n=3, cutoff=0.5)]))[:3]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return "there are none"
    if len(names) <= 12:
        return "known: " + ", ".join(names)
    return "known: " + ", ".join(names[:12]) + f", ... ({len(names)} in all)"


def _begun_alike(name: str, names: Sequence[str]) -> list[str]:
    """Return the names with the longest common beginning, which are meant even if a long one is not close."""
    shared = {one: _shared(one, name) for one in names}
    most = max(shared.values(), default=0)
    if most < _FIRST_LETTERS or most < 0.75 * len(name):
        return []
    return get_close_matches(name, [one for one in names if shared[one] == most], n=3, cutoff=0)


def _shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
