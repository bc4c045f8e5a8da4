"""Experiments on folders of images: an arm may name its own, and results are compared within one folder only."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from scipy import stats

from lgkd.cli import run
from lgkd.cli.reproduce import _show
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.markdown import section
from lgkd.experiments.results import Outcome, Row, look_at
from lgkd.experiments.smoke_test import take_first_steps
from lgkd.experiments.spec import Arm
from lgkd.models.teacher_store import read_card
from lgkd.runner.options import Options
from lgkd.runs.compare.find import Finished
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


def test_a_student_has_the_teacher_of_its_seed_unless_all_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, guided = _arms("a")
    own = replace(DRAWS, arms=(replace(teacher, seeds=None), guided), seeds=(0, 1))
    monkeypatch.setitem(EXPERIMENTS, "draws", own)
    call = ["reproduce", "draws", "--data-dir", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--quiet"]
    assert run(call) == 0
    cards = [tmp_path / "out" / "teachers" / "teacher-a" / f"seed{seed}" / "a" for seed in (0, 1)]
    stored = [read_card(next(folder.iterdir())).weights_sha256 for folder in cards]
    used = [read_run(tmp_path / "out" / "guided-a" / f"seed{seed}")["teacher"]["sha256"] for seed in (0, 1)]
    assert used == stored and len(set(used)) == 2


def test_first_steps_need_as_many_classes_as_the_folder_has(tmp_path: Path) -> None:
    options: Options = {"data_dir": tmp_path / "images"}
    started = take_first_steps(DRAWS, arms=["guided-b"], steps=1, batch_size=4, options=options)
    assert [one.steps for one in started] == [1, 1]


def test_arms_of_a_pool_are_averaged_together_and_paired_within_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = []
    for draw in ("a", "b"):
        teacher, guided = _arms(draw)
        guided = replace(guided, epochs=1, pool="guided")
        alone = replace(guided, key=f"alone-{draw}", recipe=TINY.arm("unguided").recipe, teacher=None, taps=None)
        arms += [teacher, replace(alone, pool="alone"), replace(guided, against=alone.key)]
    pooled = replace(DRAWS, arms=tuple(arms), seeds=(0, 1))
    monkeypatch.setitem(EXPERIMENTS, "draws", pooled)
    data, out = str(tmp_path / "images"), tmp_path / "out"
    assert run(["reproduce", "draws", "--data-dir", data, "--out", str(out), "--quiet"]) == 0

    def last(arm: str, seed: int) -> float:
        return 100 * read_run(out / arm / f"seed{seed}")["results"]["test_top1"]

    each = [(draw, seed) for draw in ("a", "b") for seed in (0, 1)]
    gains = [last(f"guided-{draw}", seed) - last(f"alone-{draw}", seed) for draw, seed in each]
    tops = [last(f"guided-{draw}", seed) for draw, seed in each]
    (row,) = (line for line in (out / "results.md").read_text().splitlines() if line.startswith("| guided |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["4 runs", f"{mean(tops):.2f} ± {stdev(tops):.2f}"]
    low, high = stats.t.interval(0.95, 3, loc=mean(gains), scale=stats.sem(gains)) if stdev(gains) else (0.0, 0.0)
    assert cells[4] == f"{mean(gains):+.1f} ({low:+.1f} to {high:+.1f}) over alone"
    assert "guided" in [line.split()[0] for line in capsys.readouterr().out.splitlines() if "4 runs" in line]
    (alone, guided) = look_at(pooled, out).as_dict()["pools"]
    assert alone["arm"] == "alone" and alone["measured"]["gain"] is None
    assert guided["measured"]["gain"]["mean"] == pytest.approx(mean(gains) / 100)


def test_unequal_classes_show_balanced_accuracies_and_their_gain(tmp_path: Path, capsys) -> None:
    def row(key: str, top1: float, balanced: float, against: tuple[Finished, ...] = ()) -> Row:
        rows = [{"epoch": 1.0, "test_top1": top1, "test_balanced_accuracy": balanced}]
        best = {"epoch": 1, "test_top1": top1}
        results = {"training_seconds": 1.0, "processor_seconds": 1.0, "best_epoch_on_the_test_split": best}
        info = {"dataset": {"name": "a"}, "seed": 0, "device": "cpu", "precision": "fp32", "results": results}
        arm = replace(TINY.arm("unguided"), key=key, label=key, against="alone" if against else None)
        return Row(arm, (Finished(tmp_path, info, rows, {}),), against)

    alone = row("alone", 0.75, 0.45)
    guided = row("with", 0.95, 0.9, alone.runs)
    outcome = Outcome(TINY, tmp_path, (alone, guided))
    (heads,) = (line for line in section(outcome).splitlines() if line.startswith("| arm | seeds"))
    (cells,) = (line for line in section(outcome).splitlines() if line.startswith("| with"))
    cell = dict(zip(heads.split(" | "), cells.split(" | "), strict=True))
    assert cell["last epoch"] == "95.00" and cell["balanced, last epoch"] == "90.00"
    assert cell["gain, paired by seed"].startswith("+20.0 (one seed)")
    assert cell["gain in balanced accuracy"].startswith("+45.0 (one seed)")
    _show(outcome)
    printed = capsys.readouterr().out
    assert "tiny: balanced accuracy on the test split" in printed and "90.00" in printed and "95.00" not in printed


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
