"""Experiments on folders of images: an arm may name its own, and results are compared within one folder only."""

from dataclasses import replace
from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.results import look_at
from lgkd.experiments.smoke_test import take_first_steps
from lgkd.experiments.spec import Arm
from lgkd.runner.options import Options
from lgkd.runs.folder import read_run
from tests.support.reproducing import TINY
from tests.support.small import make_pictures

TAPS = ["blocks.0", "blocks.1", "blocks.1"]


def _arms(draw: str) -> tuple[Arm, ...]:
    """Teacher and guided student of the tiny experiment on a folder of that name, in two steps an epoch."""
    teacher, guided = (TINY.arm(key) for key in ("teacher", "guided"))
    teacher = replace(teacher, key=f"teacher-{draw}", dataset=draw, batch_size=4)
    guided = replace(guided, key=f"guided-{draw}", dataset=draw, batch_size=4, teacher=teacher.key, against=None)
    teacher, guided = (replace(arm, images_per_class=None, fraction=None) for arm in (teacher, guided))
    return teacher, replace(guided, taps=tuple(TAPS), early=None)


DRAWS = replace(TINY, name="draws", dataset="a", arms=(*_arms("a"), *_arms("b")), seeds=(0,))


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(EXPERIMENTS, "draws", DRAWS)
    make_pictures(tmp_path / "images" / "a")
    make_pictures(tmp_path / "images" / "b", train=10)


def test_arms_train_on_their_own_folders_with_their_own_taps(tmp_path: Path) -> None:
    call = ["reproduce", "draws", "--data-dir", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--quiet"]
    assert run(call) == 0
    assert run(call) == 0  # finished runs are recognised
    outcome = look_at(DRAWS, tmp_path / "out")
    seen = {}
    for row in outcome.rows:
        (made,) = row.runs
        info = read_run(made.folder)
        seen[row.arm.key] = (info["dataset"]["name"], info["dataset"]["train_images"])
        assert row.arm.role == "teacher" or [pair["student"] for pair in info["pairs"]] == TAPS
    classes = read_run(tmp_path / "out" / "guided-a" / "seed0")["dataset"]["classes"]
    assert seen == {
        "teacher-a": ("a", 8 * classes),
        "guided-a": ("a", 8 * classes),
        "teacher-b": ("b", 10 * classes),
        "guided-b": ("b", 10 * classes),
    }
    assert (tmp_path / "out" / "teachers" / "teacher-b" / "seed0" / "b").is_dir()


def test_first_steps_need_as_many_classes_as_the_folder_has(tmp_path: Path) -> None:
    options: Options = {"data_dir": tmp_path / "images"}
    started = take_first_steps(DRAWS, arms=["guided-b"], steps=1, batch_size=4, options=options)
    assert [one.steps for one in started] == [1, 1]


@pytest.mark.parametrize(("given", "found"), [((), "no --data-dir is given"), (("--data-dir", "."), "no folder b")])
def test_a_missing_folder_is_named_before_the_first_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    found: str,
) -> None:
    monkeypatch.chdir(tmp_path / "images")
    (tmp_path / "images" / "b").rename(tmp_path / "elsewhere")
    assert run(["reproduce", "draws", *given, "--out", str(tmp_path / "out")]) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert found in message and "/train/CLASS/*" in message and "--data-dir" in message
    assert not (tmp_path / "out").exists()
