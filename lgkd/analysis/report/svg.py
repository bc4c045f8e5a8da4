"""Pictures as part of a page: matplotlib's SVG, in the page's colours, with a title that is read aloud."""

import re

from lgkd.analysis.report.html import Html, text
from lgkd.runs.plots import BLUE, GREEN, GREY, ORANGE

# Colours of the figures, and what they are called in the page's style, which has a dark one, too.
_COLOURS = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    GREY: "var(--muted)",
    "#000000": "currentColor",
    "#b0b0b0": "var(--line)",
}
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*"')
_HEIGHT = re.compile(r'(<svg[^>]*?) height="[^"]*"')
_FONT = re.compile(r"font: ((?:[a-z]+ |\d+ )*)(\d+(?:\.\d+)?px) [^;\"]*")


def inline(svg: str, name: str, title: str, description: str) -> Html:
    """An SVG document as an element of a page.

    Args:
        svg: as `lgkd.runs.plots.as_svg` writes it.
        name: told apart from other pictures of the page: its ids begin with it.
        title, description: for those who do not see it.
    """
    svg = _LEFT_OUT.sub("", _PROLOGUE.sub("", svg, count=1)).strip()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, ours in _COLOURS.items():
        svg = re.sub(colour, ours, svg, flags=re.IGNORECASE)
    svg = _HEIGHT.sub(r"\1", _SIZE.sub(r"\1", svg, count=1), count=1)
    svg = _FONT.sub(r"font: \1\2 var(--font)", svg)
    head = f'<svg role="img" aria-labelledby="{name}-title {name}-description"'
    told = f'<title id="{name}-title">{text(title)}</title><desc id="{name}-description">{text(description)}</desc>'
    start = svg.index(">") + 1
    return svg[:start].replace("<svg", head, 1) + told + svg[start:]
