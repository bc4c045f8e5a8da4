"""How Sphinx makes a site of the Markdown files of this folder: `sphinx-build -W docs FOLDER`."""

import re
from typing import Any

from sphinx.application import Sphinx

import lgkd

project = "lgkd"
author = "The lgkd authors"
version = release = lgkd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4
# Blocks without a language are formulas and drawings.
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 72
add_module_names = False
# Single backticks in docstrings are code, as in Markdown.
default_role = "code"

html_theme = "furo"
html_title = "lgkd"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f6f63", "color-brand-content": "#1f6f63"},
    "dark_css_variables": {"color-brand-primary": "#6cc7b6", "color-brand-content": "#6cc7b6"},
}

# Files of the repository's root that have a page of their own here; links to others leave the site and stay words.
_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def _within(found: re.Match[str]) -> str:
    """A link out of this folder as one to the page that includes the file, or as its words."""
    words, target, anchor = found[1], found[2], found[3] or ""
    return f"[{words}]({_ROOT[target]}{anchor})" if target in _ROOT else words


def _mend_links(_: Sphinx, __: str, content: list[str]) -> None:
    content[0] = _LINK.sub(_within, content[0])


_SPAN = re.compile(r"`([^`]+)`(\w?)")
_SIGNS = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def _escaped(text: str) -> str:
    """Plain words with inline code, as reStructuredText."""
    ended, parts = 0, []
    for span in _SPAN.finditer(text):
        parts += [
            _SIGNS.sub(r"\\\g<0>", text[ended : span.start()]),
            f"``{span[1]}``",
            "\\ " if span[2] else "",
            span[2],
        ]
        ended = span.end()
    return "".join(parts) + _SIGNS.sub(r"\\\g<0>", text[ended:])


def _as_text(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Docstrings are plain words: their indented formulas become literal blocks, and their signs stay signs."""
    done: list[str] = []
    for paragraph in re.split(r"\n(?=\s*\n)", "\n".join(lines)):
        before = done[-1].rstrip().splitlines()[-1:] if done else []
        if re.match(r"\s*\n {4}", paragraph) and before and not re.match(r" |\w+:$", before[0]):
            done += ["\n::", paragraph]
        else:
            done.append(re.sub(r"^(\s*)\\\* ", r"\1* ", _escaped(paragraph), flags=re.M))
    lines[:] = "\n".join(done).split("\n")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _mend_links)
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon, at 500
