"""Write CSV tables that are safe to open: no cell is a formula of a spreadsheet or a command of a terminal.

A text that begins with =, +, -, @, a tab or a carriage return (OWASP, "CSV injection"; their full-width forms and
leading white space count, too) gets an apostrophe before it, which spreadsheets show or hide but never compute. So
does a text that begins with an apostrophe, and one that holds characters that act on a terminal or break a line; in
these, backslashes and such characters are written as escapes. So `original` can restore every cell:
a cell that begins with an apostrophe was changed, and all others are unchanged. Numbers stay numbers.
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
# Line feeds and tabs too: a reader that works line by line must not be given a false row. Lone surrogates
# are bytes of a file's name that are not text; UTF-8 has no bytes for them.
_WRITTEN = re.compile(f"{ACTING.pattern}|[\\t\\n\\\\\ud800-\udfff]")
_TELLS = re.compile(f"{ACTING.pattern}|[\\t\\n\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:\\|t|n|r|x[0-9a-f]{2}|u[0-9a-f]{4})")


def cell(value: Any) -> Any:
    """Convert a value to a cell: numbers as they are, texts so that they are inert."""
    if value is None or isinstance(value, Number):
        return value
    text = str(value)
    if not _BEGINS.match(text) and not _TELLS.search(text):
        return text
    return _MARK + _WRITTEN.sub(_escaped, text)


def original(text: str) -> str:
    """Restore the text of a cell of such a table."""
    if not text.startswith(_MARK):
        return text
    return _ESCAPE.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), text[1:])


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Build a CSV file, UTF-8 with line feeds; a cell that a row does not have is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(column) for column in columns])
    for row in rows:
        writer.writerow([cell(row.get(column, "")) for column in columns])
    return text.getvalue().encode()


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
