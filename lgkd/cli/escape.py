"""Text of others, shown as what it is: a class called "\\x1b[2J" must not clear the screen. No rich in here."""

import re

from lgkd._internal.text import ACTING

_LINE_FEED = re.compile(r"\n(?!  )")


def visible(text: str) -> str:
    """`text` with every character that would do something to a terminal written as its escape, like \\x1b."""
    return ACTING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """As `visible`, and line feeds and tabs are escaped as well."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def paragraphs(message: str) -> str:
    """As `visible`, of a message whose own further lines are indented: a line feed without that is of a name."""
    return _LINE_FEED.sub(r"\\n", visible(message))


def json_visible(document: str) -> str:
    """A JSON document in which such characters, which can only stand in its strings, are written as JSON escapes."""
    return ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
