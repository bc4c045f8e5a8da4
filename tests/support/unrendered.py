"""Figures that are built and not rendered: rendering its curves takes more than half of a training of tests.

Imported by tests/conftest.py and by the nursery, so that a run's curves, a comparison and the quickstart's gain are
images of one pixel, here and in every process that the nursery makes. `real_figures` is for tests of what is drawn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import lgkd.analysis.inspect.figures  # noqa: F401  # has the real `finish` by name, in whatever order files are tested
from lgkd.runs import plots

_finish = plots.finish


def _built(figure: Any, axes: Sequence[Any], path: Path) -> None:
    plots.dress(axes)
    Image.new("RGB", (1, 1)).save(path)


@contextmanager
def real_figures() -> Iterator[None]:
    """Render figures meanwhile, as without these tests."""
    plots.finish = _finish
    try:
        yield
    finally:
        plots.finish = _built


plots.finish = _built
