"""Text of others, shown as what it is: a class called "\\x1b[2J" must not clear the screen. No rich in here."""

import re

from lgkd._internal.text import ACTING, visible

_LINE_FEED = re.compile(r"\n(?!  )")


def paragraphs(message: str) -> str:
    """As `visible`, of a message whose own further lines are indented: a line feed without that is of a name."""
    return _LINE_FEED.sub(r"\\n", visible(message))


def json_visible(document: str) -> str:
    """A JSON document in which such characters, which can only stand in its strings, are written as JSON escapes."""
    return ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
