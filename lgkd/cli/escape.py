"""Escape untrusted text: a class called "\\x1b[2J" must not clear the screen. No rich in here."""

import re

from lgkd._internal.text import ACTING, visible

_LINE_FEED = re.compile(r"\n(?!  )")


def paragraphs(message: str) -> str:
    """Escape like `visible`, but keep indented further lines of a message; other line feeds are part of a name."""
    return _LINE_FEED.sub(r"\\n", visible(message))


def json_visible(document: str) -> str:
    """Escape such characters in a JSON document, where they only occur in strings, as JSON escapes."""
    return ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
