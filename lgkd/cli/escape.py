"""Text of others, shown as what it is: a class called "\\x1b[2J" must not clear the screen. No rich in here."""

import re

# Control characters, and those that break a line or turn the direction of writing. Line feeds and tabs stay.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """`text` with every character that would do something to a terminal written as its escape, like \\x1b."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """As `visible`, and line feeds and tabs are escaped as well."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def json_visible(document: str) -> str:
    """A JSON document in which such characters, which can only stand in its strings, are written as JSON escapes."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
