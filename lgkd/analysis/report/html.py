"""Load the template of a report. Every text given to a macro is escaped, so that it stays text in one line."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lgkd._internal.text import one_line

TEMPLATE = "report.html.jinja"

# Surrogates, which UTF-8 cannot encode: names of files that are not text.
_LONE = re.compile("[\ud800-\udfff]")


def plain(value: object) -> str:
    """Return a text in one line, in which control characters are escaped."""
    return _LONE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", one_line(str(value)))


def environment() -> Environment:
    """Build an environment whose templates escape their inputs."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


blocks: Any = environment().get_template(TEMPLATE).module
"""Macros of the template as functions that return `Markup`."""
