"""The template of a report. Every text that a macro is given is escaped, so that it stays text in one line."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lgkd._internal.text import one_line

TEMPLATE = "report.html.jinja"

# What UTF-8 has no bytes for: names of files that are not text.
_LONE = re.compile("[\ud800-\udfff]")


def plain(value: object) -> str:
    """A text in one line, in which characters that would act on it are written as escapes."""
    return _LONE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", one_line(str(value)))


def environment() -> Environment:
    """An environment whose templates escape what they are given."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


blocks: Any = environment().get_template(TEMPLATE).module
"""The template's macros as functions that return `Markup`."""
