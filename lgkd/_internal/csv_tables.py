"""CSV tables whose cells do nothing: no spreadsheet takes a name for a formula, and no terminal obeys one.

A text that begins with =, +, -, @, a tab or a carriage return (OWASP, "CSV injection"; their full-width forms and
leading white space count, too) gets an apostrophe before it, which spreadsheets show or hide but never compute. So
does a text that begins with an apostrophe, and one that holds characters that act on a terminal or break a line; in
these, backslashes and such characters are written as escapes. So `original` gives back what every cell stood for:
a cell that begins with an apostrophe was changed, and all others stand for themselves. Numbers stay numbers.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

from lgkd._internal.text import ACTING

_MARK = "'"
_BEGINS = re.compile("\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n']")
# Line feeds and tabs too: whoever reads a table line by line must not be given a row that is none. Lone surrogates
# are bytes of a file's name that are no text; UTF-8 has no bytes for them.
_WRITTEN = re.compile(f"{ACTING.pattern}|[\\t\\n\\\\\ud800-\udfff]")
_TELLS = re.compile(f"{ACTING.pattern}|[\\t\\n\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:\\|t|n|r|x[0-9a-f]{2}|u[0-9a-f]{4})")


def cell(value: Any) -> Any:
    """A value as it stands in a table: numbers as they are, texts so that they do nothing."""
    if value is None or isinstance(value, Number):
        return value
    text = str(value)
    if not _BEGINS.match(text) and not _TELLS.search(text):
        return text
    return _MARK + _WRITTEN.sub(_escaped, text)


def original(text: str) -> str:
    """The text that a cell of such a table stands for."""
    if not text.startswith(_MARK):
        return text
    return _ESCAPE.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), text[1:])


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A CSV file, UTF-8 with line feeds; a cell that a row does not have is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(column) for column in columns])
    for row in rows:
        writer.writerow([cell(row.get(column, "")) for column in columns])
    return text.getvalue().encode()


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
