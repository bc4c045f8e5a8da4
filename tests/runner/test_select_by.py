"""The metric on held-out images that selects the epoch, and the scores by class of the epoch that counts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, Paused, TakenError
from lgkd.runner import execute
from lgkd.runs.folder import read_metrics, read_run
from tests.support.scoring import scores
from tests.support.small import CLASSES, TINY_OPTIONS, TRAIN, World

QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 8, "precision": "fp32", "device": "cpu", "image_size": 16}
# Of three epochs, each is the best by one metric on the held-out images; on the test split the first is, by all.
HELD_OUT = ((0.9, 0.3, 0.2), (0.5, 0.8, 0.3), (0.4, 0.5, 0.9))


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("metric", "epoch"), [(None, 1), ("top1", 1), ("balanced_accuracy", 2), ("macro_f1", 3)])
def test_each_metric_selects_its_own_best_epoch(
    metric: str | None, epoch: int, world: World, here: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    test = [scores(0.7 - 0.1 * place, 0.6, 0.6, predicted=4) for place in range(3)]
    answers = [one for held, tested in zip(HELD_OUT, test, strict=True) for one in (scores(*held), tested)]
    answers.append(scores(0.1, 0.1, 0.1, predicted=99))  # of the selected student, where it is not the last
    monkeypatch.setattr(execute, "score_split", lambda *_, **__: answers.pop(0))
    more = ["--select-by", metric] if metric is not None else []
    words = [*TRAIN, "--dataset", str(world.pictures), "--out", "mine", "--epochs", "3", "--val-fraction", "0.25"]
    assert run([*words, *more]) == 0
    info = read_run(Path("mine"))
    results = info["results"]
    assert (results["epoch"], results["selected_on"]) == (epoch, "val")
    assert results["selected_by"] == (metric or "top1")
    assert info["select_by"] == (None if metric == "top1" else metric)
    assert results["test_by_class"]["rows"]["predicted"] == (4 if epoch == 3 else 99)
    name = {None: "top-1 accuracy", "top1": "top-1 accuracy"}.get(metric, str(metric).replace("_", " ")).replace(
        "f1", "F1"
    )
    assert f"(chosen on held-out images by {name})" in " ".join(capsys.readouterr().out.split())


def test_a_metric_that_does_not_exist_or_has_no_images_is_refused(world: World, here: Path) -> None:
    with pytest.raises(InputError, match="--select-by is 'auc', expected one of top1, balanced_accuracy, macro_f1"):
        lgkd.train("deit_tiny", world.pictures, select_by="auc", val_fraction=0.25, **QUICK)
    with pytest.raises(InputError, match="--select-by macro_f1 selects an epoch, and without held-out images the last"):
        lgkd.train("deit_tiny", world.pictures, select_by="macro_f1", **QUICK)


def test_the_same_folder_with_another_metric_is_another_training(world: World, here: Path) -> None:
    options: dict[str, Any] = {**QUICK, "student_options": TINY_OPTIONS, "out": here / "mine", "val_fraction": 0.25}
    with pytest.raises(Paused):
        lgkd.train("deit_tiny", world.pictures, max_time=0.0, **options)
    with pytest.raises(TakenError, match='select_by: was null, now "macro_f1"'):
        lgkd.train("deit_tiny", world.pictures, select_by="macro_f1", **options)
    # The default by its name is no other training.
    done = lgkd.train("deit_tiny", world.pictures, select_by="top1", **options)
    assert done.info["results"]["selected_by"] == "top1"


def test_a_resumed_run_selects_by_the_metric_that_it_was_started_with(world: World, here: Path) -> None:
    options: dict[str, Any] = {**QUICK, "student_options": TINY_OPTIONS, "out": here / "mine", "val_fraction": 0.25}
    with pytest.raises(Paused):
        lgkd.train("deit_tiny", world.pictures, select_by="macro_f1", max_time=0.0, **options)
    assert lgkd.resume(here / "mine").info["results"]["selected_by"] == "macro_f1"


def test_scores_by_class_are_those_of_the_last_epoch_also_after_a_crash_before_they_were_written(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**QUICK, "student_options": TINY_OPTIONS}
    whole = lgkd.train("deit_tiny", world.pictures, out=here / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(execute, "results", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lgkd.train("deit_tiny", world.pictures, out=here / "mine", **options)
    again = lgkd.train("deit_tiny", world.pictures, out=here / "mine", **options)
    assert len(read_metrics(here / "mine")) == 3
    kept = again.info["results"]["test_by_class"]
    assert kept == whole.info["results"]["test_by_class"] == json.loads(json.dumps(kept))
    found = lgkd.evaluate(again)
    assert kept == {name: one.as_dict() for name, one in zip(CLASSES, found.by_class, strict=True)}
    assert sum(one["count"] for one in kept.values()) == 12
    assert again.info["results"]["test_auroc"] == found.auroc and "selected_by" not in again.info["results"]


def test_trackers_are_not_sent_top_5_of_three_classes(world: World, here: Path) -> None:
    class Kept:
        name = "kept"

        def __init__(self) -> None:
            self.values: dict[str, float] = {}

        def log(self, values: dict[str, float], step: int | None = None) -> None:
            self.values |= values

    kept = Kept()
    lgkd.train("deit_tiny", world.pictures, student_options=TINY_OPTIONS, track=[kept], **{**QUICK, "epochs": 1})
    assert "test_top1" in kept.values and "test_macro_f1" in kept.values and "test_top5" not in kept.values


def test_a_score_that_is_not_a_number_is_none_in_json() -> None:
    assert replace(scores(0, 0, 0).by_class[0], auroc=float("nan")).as_dict()["auroc"] is None
