"""The curves of a run, rendered: most tests build figures without drawing them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgkd.runs.plots import BLUE, ORANGE, draw_curves
from tests.support.unrendered import real_figures

ROWS = [
    {"epoch": float(epoch), "train_accuracy": 0.4, "test_top1": top1, "test_balanced_accuracy": top1 / 2,
     "test_loss": 1.0, "loss_classification": 1.5, "loss_guidance_linear": 0.5}
    for epoch, top1 in ((1, 0.3), (2, 0.6))
]  # fmt: skip


@pytest.mark.parametrize("balanced", [False, True])
def test_curves_are_drawn_under_a_title_in_any_script(tmp_path: Path, balanced: bool) -> None:
    with real_figures(), warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(ROWS, tmp_path / "curves.png", "a student of größe 日本, $5 {x}", balanced=balanced)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and 1000 <= picture.width <= 1600
        pixels = np.asarray(picture.convert("RGB"))[:, : picture.width // 2]  # the panel of accuracy
    drawn = {one: (pixels == [int(one[at : at + 2], 16) for at in (1, 3, 5)]).all(-1).any() for one in (BLUE, ORANGE)}
    assert drawn == {BLUE: True, ORANGE: balanced}
