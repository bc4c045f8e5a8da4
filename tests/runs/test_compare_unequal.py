"""Classes of unequal size in a comparison: balanced accuracy, macro F1 and AUROC beside top-1 accuracy."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy import stats

from lgkd.cli import run as lgkd
from lgkd.runs.class_results import (
    about_never_predicted,
    by_class_of,
    has_unequal_classes,
    in_words,
    never_predicted,
    selected_by,
)
from lgkd.runs.compare import compare
from lgkd.runs.compare.summary import balanced_line, summary_lines
from lgkd.runs.folder import read_metrics, write_metrics
from tests.support.comparing import make_run

ALONE, GUIDED = (0.40, 0.44, 0.38), (0.52, 0.50, 0.51)


def one(count: int, predicted: int = 1) -> dict[str, float | None]:
    return {"count": count, "predicted": predicted, "precision": 0.5, "recall": 0.5, "f1": 0.5, "auroc": None}


def make(folder: Path, values: Sequence[float], *, guided: bool = False, **results: object) -> Path:
    """Runs whose top-1 is 0.7 and whose balanced accuracy is given; macro F1 is 0.1 less, AUROC 0.2 more."""
    for seed, value in enumerate(values):
        run = make_run(folder / f"seed{seed}-{'guided' if guided else 'unguided'}", 0.6, 0.7, seed=seed, guided=guided,
                       results=results)  # fmt: skip
        first, last = read_metrics(run)
        more = {"test_balanced_accuracy": value, "test_macro_f1": value - 0.1, "test_auroc": value + 0.2}
        write_metrics(run, [first, last | more])
    return folder


@pytest.fixture
def both(tmp_path: Path) -> Path:
    make(tmp_path, ALONE)
    return make(tmp_path, GUIDED, guided=True)


def test_means_and_the_paired_difference_are_those_of_the_runs(both: Path) -> None:
    found = compare(both)
    (gain,) = found.differences
    interval = gain.interval_of("balanced_accuracy")
    theirs = stats.ttest_rel(GUIDED, ALONE).confidence_interval(0.95)
    assert interval is not None and interval.mean == pytest.approx((1.53 - 1.22) / 3)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    kept = found.as_dict()
    group, difference = kept["groups"][1], kept["differences"][0]
    assert group["unequal_classes"] and group["balanced_accuracy"]["mean"] == pytest.approx(1.53 / 3)
    assert group["macro_f1"]["mean"] == pytest.approx(1.53 / 3 - 0.1)
    assert [run["auroc"] for run in group["runs"]] == pytest.approx([value + 0.2 for value in GUIDED])
    assert difference["auroc"]["mean"] == pytest.approx(interval.mean)
    line = balanced_line(gain)
    assert line is not None and line in summary_lines(found)
    assert line.startswith("The classes are of unequal size. In balanced accuracy the difference is +10.33 points, 95%")


def test_the_table_is_printed_within_80_columns(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgkd(["compare", str(both)]) == 0
    shown = capsys.readouterr().out
    assert "classes of unequal size: metrics in which every class counts alike" in shown
    assert re.search(r"^A +40\.67 ± 3\.06 +30\.67 ± 3\.06 +0\.6067 ± 0\.0306$", shown, re.M)
    assert max(len(line) for line in shown.partition("A - B")[0].partition("\n\nB - A")[0].splitlines()) <= 80


def test_the_csv_has_them_in_every_row_and_leaves_cells_of_earlier_versions_empty(both: Path, tmp_path: Path) -> None:
    make_run(both / "seed9-guided", 0.6, 0.7, seed=9, guided=True)
    assert lgkd(["compare", str(both), "--csv", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_seed = {(row["group"], row["seed"]): row["balanced_accuracy"] for row in rows if row["row"] == "run"}
    assert float(by_seed["A", "0"]) == 0.40 and by_seed["B", "9"] == ""
    means = {row["group"]: row["macro_f1"] for row in rows if row["row"] == "group"}
    assert float(means["A"]) == pytest.approx(1.22 / 3 - 0.1) and means["B"] == ""
    (difference,) = [row for row in rows if row["row"] == "difference"]
    assert difference["auroc"] == "" and compare(both).differences[0].interval_of("auroc") is None


def test_equal_classes_are_not_reported_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    equal = {"test_by_class": {name: one(5) for name in "abc"}}
    make(tmp_path, ALONE, **equal)
    make(tmp_path, GUIDED, guided=True, **equal)
    assert lgkd(["compare", str(tmp_path)]) == 0
    assert "unequal" not in capsys.readouterr().out
    assert balanced_line(compare(tmp_path).differences[0]) is None


def test_one_seed_has_a_difference_without_an_interval(tmp_path: Path) -> None:
    make(tmp_path, ALONE[:1])
    make(tmp_path, GUIDED[:1], guided=True)
    line = balanced_line(compare(tmp_path).differences[0])
    assert line == (
        "The classes are of unequal size. In balanced accuracy the difference is +12.00 points, with one seed."
    )


def test_results_by_class_are_read_only_where_they_are_proper() -> None:
    proper = {"test_by_class": {"a": one(4), "b": one(1, 0), "c": one(0, 0)}}
    assert by_class_of(proper) == proper["test_by_class"]
    assert has_unequal_classes(proper) and never_predicted(proper["test_by_class"]) == ["b"]
    assert not has_unequal_classes({"test_by_class": {"a": one(4), "b": one(4), "c": one(0)}})
    for odd in (None, [], {}, {"a": 1}, {"a": one(4) | {"count": -1}}, {"a": one(4) | {"recall": "0.5"}},
                {"a": one(4) | {"f1": 2.0}}, {"a": one(4) | {"predicted": True}},
                {"a": {"count": 1, "predicted": 1}}):  # fmt: skip
        assert by_class_of({"test_by_class": odd}) is None
    old = {"test_top1": 0.7, "test_balanced_accuracy": 0.7 + 1e-12}
    assert not has_unequal_classes(old) and has_unequal_classes(old | {"test_balanced_accuracy": 0.6})
    assert not has_unequal_classes({"test_top1": 0.7}) and not has_unequal_classes(json.loads('{"test_top1": "x"}'))


def test_classes_that_are_never_predicted_are_named_a_few_at_most() -> None:
    assert about_never_predicted({"a": one(1), "b": one(0, 0)}) is None
    assert about_never_predicted({"a": one(1), "b": one(2, 0)}) == "1 of 2 classes is never predicted: b"
    many = {str(place): one(1, 0) for place in range(9)}
    assert about_never_predicted(many) == "9 of 9 classes are never predicted: 0, 1, 2, 3, 4, ... (9 in all)"
    assert "\x1b" not in str(about_never_predicted({"a\x1b[2J": one(1, 0)}))


def test_metrics_in_words() -> None:
    assert in_words("macro_f1", 0.12345) == "12.35%" and in_words("auroc", 0.98765) == "0.9877"
    assert in_words("auroc", None) == "undefined"
    assert selected_by({}) == selected_by({"selected_by": ["x"]}) == "top-1 accuracy"
    assert selected_by({"selected_by": "macro_f1"}) == "macro F1"
