"""The verdict of a report claims what the interval holds, folds are called folds, and axes have the classes' names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.analysis.report.context import Known
from lgkd.analysis.report.curves import accuracy_lines
from lgkd.analysis.report.figures import draw_confusion
from lgkd.analysis.report.selection import choose
from lgkd.analysis.report.sentences import summary
from lgkd.analysis.report.verdict import Verdict, verdict
from lgkd.training.evaluate import Answers
from tests.support.comparing import make_run, make_seeds


def known(*folders: Path, answers: Answers | None = None, classes: int = 2) -> Known:
    names = [f"class {number}" for number in range(classes)]
    return Known(choose(folders), names, answers, None, None, "", "", "", {})


def of(tmp_path: Path, unguided: list[float], guided: list[float]) -> Verdict:
    make_seeds(tmp_path / "x", unguided)
    make_seeds(tmp_path / "x", guided, guided=True)
    return verdict(known(tmp_path / "x"))


@pytest.mark.parametrize(
    ("unguided", "guided", "headline"),
    [
        ([0.5, 0.51, 0.5], [0.6, 0.61, 0.61], "Guidance gains 10.33 points over the baseline"),
        ([0.6, 0.61, 0.61], [0.5, 0.51, 0.5], "Guidance loses 10.33 points against the baseline"),
        ([0.5, 0.6], [0.55, 0.6], "No clear gain: +2.50 points over the baseline"),
        ([0.5], [0.6], "+10.00 points over the baseline with one seed: not a result yet"),
    ],
)
def test_the_headline_claims_what_the_interval_does(
    tmp_path: Path, unguided: list[float], guided: list[float], headline: str
) -> None:
    found = of(tmp_path, unguided, guided)
    assert found.headline == headline
    gain = next(tile for tile in found.tiles if tile.label == "gain, points")
    assert gain.note.startswith("95%: " if len(guided) > 1 else "one seed, no interval")


def test_without_a_baseline_the_accuracy_is_the_verdict(tmp_path: Path) -> None:
    found = verdict(known(make_run(tmp_path / "x", 0.5)))
    assert found.headline == "50.00% of the test images classified correctly"
    assert found.lead == "Top-1 accuracy on 599 test images. One seed is not a result: other seeds differ."
    several = verdict(known(make_seeds(tmp_path / "y", [0.5, 0.6])))
    assert several.tiles[0] == ("test accuracy", "55.00%", "± 7.07, 2 seeds")


def test_a_value_and_its_note_are_short_enough_for_half_of_a_phone(tmp_path: Path) -> None:
    for tile in of(tmp_path, [0.5, 0.6], [0.55, 0.99]).tiles:
        assert len(tile.value) <= 8 and len(tile.note) <= 24 and len(tile.label) <= 20, tile


def test_folds_are_called_folds(tmp_path: Path) -> None:
    for fold in (1, 2, 3):
        for guided in (True, False):
            name = f"seed0-fold{fold}-{'guided' if guided else 'unguided'}"
            about: dict[str, Any] = {"subset": f"fold {fold} of 3, seed 0"}
            make_run(tmp_path / "x" / name, 0.4, 0.5 + guided / 10, guided=guided, dataset=about)
    found = known(tmp_path / "x")
    page = verdict(found)
    words = " ".join([page.headline, page.lead, page.when, *(" ".join(tile) for tile in page.tiles)])
    words += " ".join(summary(found.chosen)) + found.which
    assert "fold 1" in words and "3 folds" in words
    assert "seed" not in words.lower().replace("fold 1 of 3, seed 0", ""), "that of the division alone"
    assert page.when.startswith("Folds 1, 2, 3, finished")


def test_balanced_accuracy_that_no_run_recorded_comes_from_the_predictions(tmp_path: Path) -> None:
    labels, guesses = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    answers = Answers(labels, guesses, torch.ones(6), torch.ones(6))
    found = verdict(known(make_run(tmp_path / "x", 4 / 6), answers=answers))
    # Three quarters of one class, and half of the other.
    assert ("balanced accuracy", "62.50%", "seed 0") in found.tiles
    equal = Answers(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(2), torch.ones(2))
    assert "balanced accuracy" not in {tile.label for tile in verdict(known(tmp_path / "x", answers=equal)).tiles}


def test_balanced_accuracy_over_the_epochs_is_dashed_and_below_accuracy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", 0.5, 0.6)
    (run / "metrics.csv").write_text(
        "epoch,lr,loss,test_top1,test_balanced_accuracy\n1,0.1,1.0,0.5,0.3\n2,0.1,1.0,0.6,0.4\n"
    )
    lines = accuracy_lines(choose([run]))
    assert [(line.name, line.dashed, line.curve.mean) for line in lines] == [
        ("this run, balanced", True, (0.3, 0.4)),
        ("this run", False, (0.5, 0.6)),
    ]
    assert [line.name for line in accuracy_lines(choose([make_run(tmp_path / "y", 0.5, 0.6)]))] == ["this run"]


@pytest.mark.parametrize(("classes", "named"), [(1, True), (24, True), (34, True), (100, True), (300, False)])
def test_classes_are_named_on_the_axes_of_the_confusion_matrix(classes: int, *, named: bool) -> None:
    names = [f"Packaged-Product-{number:03}" for number in range(classes)]
    figure = draw_confusion(names, torch.eye(classes, dtype=torch.int64))
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        shown = [label.get_text() for label in axis.get_ticklabels()]
        assert len(shown) == (classes if named else 0)
        # Shortened in the middle: they stay different.
        assert len(set(shown)) == len(shown) and all(len(one) <= 16 for one in shown)
