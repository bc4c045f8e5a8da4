"""Trainings whose held-out images are whole groups: recorded, resumed, evaluated on their own images."""

import json
import shutil
from pathlib import Path

import pytest

import lgkd
from lgkd.analysis.report.command import _options as in_command
from lgkd.cli import run
from lgkd.errors import InputError
from lgkd.runner.options import saved_options
from tests.support.data import smears
from tests.support.small import QUICK, TINY, pause_after

PATTERN = r"name:(\d+)_"
TRAIN = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--quiet"]


def about(folder: str) -> dict:
    return json.loads((Path(folder) / "run.json").read_text())["dataset"]


def test_a_flat_folder_is_divided_by_groups_and_evaluated_on_the_same_images(here, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    smears(here / "cells")
    words = [*TRAIN, "--dataset", "cells", "--groups", PATTERN, "--val-fraction", "0.25", "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(words) == 75
    assert run(["resume", "mine", "--quiet"]) == 0
    found = about("mine")
    assert found["groups"] == {"by": PATTERN, "table": None, "of_the_test_split": True}
    assert (found["train_images"], found["val_images"], found["test_images"]) == (24, 8, 8)
    scores = lgkd.evaluate("mine")
    told = json.loads(Path("mine/run.json").read_text())
    assert scores.images == 8 and scores.top1 == told["results"]["test_top1"]
    # A copy of the folder elsewhere is recognised by its content, and only what was held out is scored.
    shutil.copytree("cells", "copy")
    capsys.readouterr()
    assert run(["evaluate", "mine", "--dataset", "copy"]) == 0
    assert "the 8 images of copy that were held out from the training of this run" in "".join(capsys.readouterr())
    assert run(["export", "mine", "--format", "safetensors", "--out", "exported"]) == 0


def test_another_grouping_is_another_training(here, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    smears(smears(here / "cells", split="train"), split="test")
    words = [*TRAIN, "--dataset", "cells", "--val-fraction", "0.25", "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*words, "--groups", PATTERN]) == 75
    assert about("mine")["groups"] == {"by": PATTERN, "table": None, "of_the_test_split": False}
    assert run([*words, "--groups", r"name:(\d+)"]) == 2
    assert r'dataset.groups.by: was "name:(\\d+)_", now "name:(\\d+)"' in capsys.readouterr().err
    assert run([*words]) == 2


def test_a_table_is_kept_with_its_path_and_a_changed_one_is_refused(here, monkeypatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    smears(here / "cells")
    rows = [f"{path.relative_to('cells').as_posix()},{path.name[:3]}" for path in sorted(Path("cells").rglob("*.png"))]
    Path("smears.csv").write_text("\n".join(rows))
    assert run([*TRAIN, "--dataset", "cells", "--groups", "csv:smears.csv", "--out", "mine"]) == 0
    groups = about("mine")["groups"]
    assert groups["by"].startswith("csv:smears.csv@") and groups["table"] == str(here.resolve() / "smears.csv")
    assert lgkd.evaluate("mine").images == 8
    Path("smears.csv").write_text("\n".join(row.replace(",001", ",000") for row in rows))
    with pytest.raises(InputError, match="has changed since the run"):
        lgkd.evaluate("mine")
    saved = saved_options({"groups": "csv:smears.csv"})
    assert saved == {"groups": f"csv:{here.resolve()}/smears.csv"}
    assert in_command(saved) == ["--groups", "csv:smears.csv"]


def test_a_dry_run_counts_groups(here, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    smears(here / "cells")
    words = [*TRAIN, "--dataset", "cells", "--groups", PATTERN, "--dry-run", "--json"]
    assert run([*words, "--val-fraction", "0.25"]) == 0
    found = json.loads(capsys.readouterr().out)["dataset"]
    assert (found["train_images"], found["held_out_images"], found["test_images"]) == (24, 8, 8)
    smears(smears(here / "two", split="train"), split="test")
    assert run([word if word != "cells" else "two" for word in words]) == 2
    assert "has nothing to divide: the test split of two is given" in capsys.readouterr().err
