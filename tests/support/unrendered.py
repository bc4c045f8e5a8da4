"""Figures that are built and not rendered: rendering takes half of a small training, and most of a report.

Imported by tests/conftest.py and by the nursery, so that the figures of all of their tests are empty images of one
pixel. `real_figures` is for tests of what is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

_savefig = Figure.savefig
_EMPTY = '<svg width="1pt" height="1pt" viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg"></svg>'


def _save_empty(_: Figure, file: Any, **options: Any) -> None:
    if options.get("format") == "svg":
        file.write(_EMPTY)
    elif Path(file).suffix == ".svg":
        Path(file).write_text(_EMPTY, encoding="utf-8")
    else:
        Image.new("RGB", (1, 1)).save(file)


@contextmanager
def real_figures() -> Iterator[None]:
    """Render figures meanwhile, as without these tests."""
    empty, Figure.savefig = Figure.savefig, _savefig
    try:
        yield
    finally:
        Figure.savefig = empty


Figure.savefig = _save_empty
