"""Embed pictures in a page: matplotlib's SVG, in the page's colours, with a title for screen readers."""

import re
from typing import NamedTuple

from lgkd.runs.plots import BLUE, GREEN, GREY, ORANGE

DEEP = "#010101"
"""Ink on a coloured ground, which has to be darker, or lighter, than other ink."""

# Colours of the figures, and their names in the page's style, which has a dark one, too.
_COLOURS = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    GREY: "var(--muted)",
    "#000000": "currentColor",
    DEEP: "var(--deep)",
    "#b0b0b0": "var(--line)",
}
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*"')
_HEIGHT = re.compile(r'(<svg[^>]*?) height="[^"]*"')
_FONT = re.compile(r"font: ((?:[a-z]+ |\d+ )*)(\d+(?:\.\d+)?px) [^;\"]*")


class Svg(NamedTuple):
    """Represent an element in two parts, so that a title can be put between them.

    Attributes:
        attributes: of the element, with a blank before each.
        content: everything in it, and its end.
    """

    attributes: str
    content: str


def inline(svg: str, name: str) -> Svg:
    """Convert an SVG document to an element of a page.

    Args:
        svg: as `lgkd.runs.plots.as_svg` writes it.
        name: distinguishes it from other pictures of the page: its ids begin with it.
    """
    svg = _LEFT_OUT.sub("", _PROLOGUE.sub("", svg, count=1)).strip()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, ours in _COLOURS.items():
        svg = re.sub(colour, ours, svg, flags=re.IGNORECASE)
    svg = _HEIGHT.sub(r"\1", _SIZE.sub(r"\1", svg, count=1), count=1)
    attributes, _, content = _FONT.sub(r"font: \1\2 var(--font)", svg).removeprefix("<svg").partition(">")
    return Svg(attributes, content)
