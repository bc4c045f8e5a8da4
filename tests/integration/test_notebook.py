"""docs/notebook.ipynb runs from top to bottom, as Jupyter runs it, and says what it says."""

import json
import re
from typing import Any

import pytest

from tools.pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
LONG, SHORT = re.compile(r'epochs=40, overrides=\["evaluate_every=4"\]'), 'epochs=4, overrides=["evaluate_every=2"]'
"""Six students of a tenth of their epochs; of their accuracy nothing is said here, and the teacher is trained whole."""


def test_the_notebook_is_kept_without_outputs_and_without_paths_of_anybody() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    shortened = 0

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    content = nbformat.read(NOTEBOOK, as_version=4)
    for cell in content.cells:
        cell.source, found = LONG.subn(SHORT, cell.source)
        shortened += found
    assert shortened == 1, "the students' training is another one"
    NotebookClient(content, timeout=280, kernel_name="python3").execute()
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    number: Any = re.search(r"teacher: ([\d.]+)% of the test images", said)
    assert number and float(number[1]) > 50
    assert re.search(r"guided less unguided: [+-][\d.]+ points, 95% interval [+-][\d.]+ to [+-][\d.]+", said)
    assert re.search(r"of 599 images guidance put \d+ right and \d+ wrong", said)
