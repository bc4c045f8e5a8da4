"""Small pieces of HTML. Every text that comes from elsewhere goes through `text`, so that it stays text."""

import re
from collections.abc import Iterable, Sequence
from html import escape

# Control characters, which HTML forbids, and those that break a line or turn the direction of writing.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# What UTF-8 has no bytes for: names of files that are no text.
_LONE = re.compile("[\ud800-\udfff]")

_COLUMN = 'th scope="col"'

Html = str
"""Markup; never a text as it came."""


def plain(value: object) -> str:
    """A text in one line, in which characters that would act on it are written as escapes."""
    found = _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(value))
    return _LONE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", found)


def text(value: object) -> Html:
    """A text as markup that shows it."""
    return escape(plain(value), quote=True)


def lines(value: str) -> Html:
    """A text of several lines, for `pre`."""
    return "\n".join(map(text, value.split("\n")))


def paragraphs(sentences: Iterable[str]) -> Html:
    """Each sentence or group of them as a paragraph."""
    return "\n".join(f"<p>{text(sentence)}</p>" for sentence in sentences)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> Html:
    """A table with a caption, headings above and headings in the first column.

    Args:
        caption: what it shows.
        head: of the columns; empty for two columns of names and values.
        rows: texts; the first of each is the row's heading.
        words: how many columns, from the left, are words; the others are numbers, set flush right.
    """

    def cells(row: Sequence[object], tag: str) -> Html:
        kinds = ("" if place < words else ' class="number"' for place in range(1, len(row)))
        return "".join(f"<{tag}{kind}>{text(cell)}</{tag[:2]}>" for kind, cell in zip(kinds, row[1:], strict=True))

    body = "\n".join(f'<tr><th scope="row">{text(row[0])}</th>{cells(row, "td")}</tr>' for row in rows)
    above = f'<thead><tr><th scope="col">{text(head[0])}</th>{cells(head, _COLUMN)}</tr></thead>\n' if head else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption>\n{above}<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(picture: Html, caption: str) -> Html:
    """A picture with words below it."""
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


def folded(summary: str, content: Html) -> Html:
    """Content that is opened on demand."""
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def section(name: str, title: str, *content: Html) -> Html:
    """A part of the page, with its heading."""
    inside = "\n".join(part for part in content if part)
    head = f'<h2 id="{name}-title">{text(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{head}\n{inside}\n</section>'
