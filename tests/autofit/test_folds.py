"""Fits of a cross-validation: a teacher for each fold, its students beside it, and results over the folds."""

import json
import re
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import lgkd
from lgkd._internal.paths import recipes_folder
from lgkd.autofit.facts import check_images, gather_facts
from lgkd.autofit.folder import FIT
from lgkd.autofit.plan import make_plan
from lgkd.autofit.request import Request
from lgkd.cli import run
from lgkd.errors import InputError, ShortTimeError
from lgkd.runner import dry_run, fit_time
from lgkd.runner.cost import Cost
from lgkd.runs.folder import is_finished, read_run
from tests.autofit.test_fit import SMALL, WORDS
from tests.support.small import make_pictures

GROUPS = r"name:^(\d)"
"""The digit at the start of a made file's name: 0.png of every class is of group 0."""


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Nine images of each of three classes in one folder without a test split, in nine groups."""
    return make_pictures(tmp_path / "pictures", train=9, test=1) / "train"


def test_each_fold_has_its_own_teacher_and_students(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["fit", str(flat), *WORDS, "--epochs", "1", "--baseline", "--folds", "3", "--groups", GROUPS]
    assert run([*command, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tested: list[int] = []
    for kind in ("guided", "unguided", "teacher"):
        top1 = []
        for fold in (1, 2, 3):
            place = out / "teacher" / f"fold{fold}"
            info = read_run(place if kind == "teacher" else out / "students" / f"seed0-fold{fold}-{kind}")
            assert info["dataset"]["subset"] == f"fold {fold} of 3, seed 0, grouped by {GROUPS}"
            assert info["dataset"]["train_images"] + info["dataset"]["test_images"] == 27
            tested += [info["dataset"]["test_images"]] if kind == "guided" else []
            top1.append(info["results"]["test_top1"])
            if kind == "guided":
                # The guide has not seen the tested images.
                assert info["teacher"]["sha256"] == _weights(out, fold)
        assert found[kind]["top1"] == pytest.approx(fmean(top1)) and found[kind]["images"] == 27
    assert sum(tested) == 27
    comparison = json.loads((out / "students" / "comparison.json").read_text())["differences"][0]
    gain = found["gain"]
    assert (gain["mean"], gain["low"], gain["high"]) == pytest.approx(
        (comparison["mean"], comparison["low"], comparison["high"])
    )
    assert gain["interval_over"] == "folds" and found["folds"] == 3 and found["left_out"] == {}
    assert "Folds 1, 2, 3" in (out / "report.html").read_text()
    assert run([*command, "--out", str(out), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("guided ") and "%, mean of 3 folds (" in lines[0]
    assert "95 % over folds" in lines[3] and "folds share training images" in lines[4]
    assert lines[-1].endswith(f"--groups '{GROUPS}' --quiet --out {out}-whole") and "--folds" not in lines[-1]
    assert run(["compare", str(out / "students"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["mean"] == pytest.approx(gain["mean"])


def _weights(out: Path, fold: int) -> str:
    cards = [json.loads(card.read_text()) for card in (out / "teachers").glob("*/*/card.json")]
    assert len(cards) == 3
    return next(str(card["weights_sha256"]) for card in cards if card["subset"].startswith(f"fold {fold} of 3"))


def test_a_stopped_cross_validation_resumes_to_the_same_bits(flat: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"epochs": 1, "folds": 2, **SMALL}
    whole = lgkd.fit(flat, out=tmp_path / "whole", **arguments)
    parts = tmp_path / "parts"

    def stopped_at(title: str) -> None:
        with pytest.raises(KeyboardInterrupt):
            lgkd.fit(flat, out=parts, watch=_stop_at(title), **arguments)

    stopped_at("teacher resnet8 fold 2")
    assert is_finished(parts / "teacher" / "fold1")
    stopped_at("1/1 seed 0 fold 2 guided")
    assert is_finished(parts / "students" / "seed0-fold1-guided")
    resumed = lgkd.fit(flat, out=parts, **arguments)
    assert resumed.results["guided"] == whole.results["guided"]
    for fold in (1, 2):
        stored = [
            read_run(tmp_path / name / "students" / f"seed0-fold{fold}-guided")["results"]["test_loss"]
            for name in ("whole", "parts")
        ]
        assert stored[0] == stored[1]


def _stop_at(title: str) -> Any:
    def watch(shown: str) -> Any:
        if shown == title:
            raise KeyboardInterrupt
        return nullcontext({})

    return watch


def test_the_time_is_divided_among_the_folds(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measure(student: object, guides: tuple[object, ...], *_: object, longest: float) -> Cost:
        calls.append(len(guides))
        return Cost(5, 20.0, 0.0, 0, "", 1)

    monkeypatch.setattr(fit_time, "measure", measure)
    out = tmp_path / "out"
    lgkd.fit(flat, time=10_000, folds=2, out=out, **SMALL)
    teachers, students = (
        [lgkd.load_recipe(out / place / "recipe.yaml").schedule.steps for place in places]
        for places in (
            ["teacher/fold1", "teacher/fold2"],
            ["students/seed0-fold1-guided", "students/seed0-fold2-guided"],
        )
    )
    # Two tenths of 10,000 s for each teacher, at 20 s a step, less the start.
    assert teachers[0] == teachers[1] and 90 < teachers[0] <= 100
    # What is left, less 30 s at the end, is halved; the teachers took nothing like their time here.
    assert students[0] == students[1] and 220 < students[0] <= 9970 / 2 / 20
    kinds = [kind for kind, _ in groupby(calls)]
    assert kinds == [0, 1], "one teacher and one student are timed"


UNEQUAL = [40, 14]
"""Images of the two groups of `unequal`."""


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """Two classes of images in two groups, one of them three times as large."""
    folder = make_pictures(tmp_path / "made", ("rows", "columns"), train=UNEQUAL[0], test=UNEQUAL[1])
    for name in ("rows", "columns"):
        for split, group in (("train", "a"), ("test", "b")):
            (tmp_path / "unequal" / name / group).mkdir(parents=True)
            for file in sorted((folder / split / name).iterdir()):
                file.rename(tmp_path / "unequal" / name / group / file.name)
    return tmp_path / "unequal"


RULES = """
by_length:
  - from_epochs: {epochs}
    set: {{view: {{erase: 0.25}}}}
"""


def test_folds_of_unequal_size_have_the_same_steps_and_rules_and_one_report(
    unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_time, "measure", lambda *_, **__: Cost(5, 20.0, 0.0, 0, "", 1))
    # Between the epochs that the folds have, of 80 and 28 images in batches of 16: one fold reaches it.
    text = re.sub(r"by_length:.*", "", (recipes_folder() / "fast.yaml").read_text(), flags=re.DOTALL)
    (tmp_path / "own.yaml").write_text(text + RULES.format(epochs=60))
    out = tmp_path / "out"
    found = lgkd.fit(
        unequal, time=6_000, folds=2, groups="level:1", baseline=True, recipe=tmp_path / "own.yaml", batch_size=16,
        out=out, **SMALL,
    )  # fmt: skip
    runs = {fold: read_run(out / "students" / f"seed0-fold{fold}-guided") for fold in (1, 2)}
    recipes = {fold: lgkd.load_recipe(out / "students" / f"seed0-fold{fold}-guided" / "recipe.yaml") for fold in runs}
    assert sorted(info["dataset"]["train_images"] for info in runs.values()) == sorted(2 * size for size in UNEQUAL)
    assert recipes[1].schedule.steps == recipes[2].schedule.steps
    assert runs[1]["epochs"] != runs[2]["epochs"]
    assert min(info["epochs"] for info in runs.values()) < 60 < max(info["epochs"] for info in runs.values())
    assert recipes[1].view.erase == recipes[2].view.erase
    assert found.left_out == {}, "one report of both folds"
    comparison = json.loads((out / "students" / "comparison.json").read_text())
    assert len(comparison["groups"]) == 2 and found.results["gain"]["mean"] == pytest.approx(
        comparison["differences"][0]["mean"]
    )


def test_a_time_too_short_names_one_that_is_enough(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_time, "measure", lambda *_, **__: Cost(5, 20.0, 0.0, 0, "", 1))
    with pytest.raises(ShortTimeError, match="50 steps for each of 3 folds; give --time ") as caught:
        lgkd.fit(flat, time=1000, folds=3, out=tmp_path / "out", **SMALL)
    # 50 steps of 20 s for three teachers, which have four tenths.
    assert caught.value.least == pytest.approx(3 * 50 * 20 / 0.4, rel=0.15)
    # A tenth more, since a start takes longer at times.
    lgkd.fit(flat, time=1.1 * caught.value.least, folds=3, out=tmp_path / "enough", **SMALL)


def test_what_is_impossible_in_a_later_fold_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures", train=9, test=1) / "train"
    for number in range(7):
        (folder / "rows" / f"{number}.png").unlink()
    # Of the two images of "rows" one is tested on in a fold, and the other cannot be held out of one.
    with pytest.raises(InputError, match="rows"):
        lgkd.fit(folder, folds=9, val_fraction=0.2, epochs=1, out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_the_plan_names_folds_and_groups(flat: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure", lambda *_, **__: Cost(5, 1.0, 0.0, 0, "", 1))
    words = ["fit", str(flat), *WORDS, "--time", "1000s", "--folds", "3", "--groups", GROUPS, "--dry-run"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "images 18 of 3 classes 6 of each" in shown
    assert "test 9 images each of 3 folds in turn, whole groups" in shown
    assert any(line.startswith("length 16m40s 3 teachers 40%, 3 students") for line in shown)
    # 400 s for the teachers, a third each, at a second a step; the rest less 30 s for the students.
    assert any(line.startswith("teacher about 6m") and line.endswith("x 3 folds") for line in shown)
    assert any(line.startswith("guided about 9m") and line.endswith("x 3 folds") for line in shown)
    assert not (tmp_path / "out").exists()


def test_one_fold_is_planned_as_the_only_one(flat: Path, tmp_path: Path) -> None:
    request = Request(flat, {"folds": 3, "fold": 2, "out": tmp_path / "out", **_options()})
    assert request.folds == (None,)
    plan = make_plan(gather_facts(request), request.wishes)
    assert any("fold 2 of 3" in line for line in plan.lines)
    assert any("1h" in line and "teacher 40%, guided student" in line for line in plan.lines)


def test_the_check_looks_at_the_first_fold(flat: Path, tmp_path: Path) -> None:
    # A copy in another group, of which a held-out fifth of each class would not know.
    (flat / "rows" / "8.png").write_bytes((flat / "rows" / "0.png").read_bytes())
    request = Request(flat, {"folds": 9, "groups": GROUPS, "out": tmp_path / "out", **_options()})
    remarks = check_images(request)
    of_test = sum(
        any("test images" in one for one in check_images(Request(flat, {**request.options, "fold": fold})))
        for fold in range(1, 10)
    )
    assert of_test == 2, "the folds of the two copies"
    assert not any("no test split" in one for one in remarks)


def test_groups_without_anything_to_divide_are_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures")
    with pytest.raises(InputError, match="has nothing to divide"):
        lgkd.fit(pictures, groups=GROUPS, epochs=1, out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_the_facts_of_groups_without_folds_are_those_of_the_training(flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = lgkd.fit(flat, groups=GROUPS, epochs=1, out=out, **SMALL)
    facts = json.loads((out / FIT).read_text())["facts"]
    info = read_run(out / "students" / "seed0-guided")["dataset"]
    assert (facts["train"], facts["test"]) == (info["train_images"], info["test_images"])
    assert facts["test"] == found.results["guided"]["images"] and facts["test"] % 3 == 0
    assert is_finished(out / "teacher")


def _options() -> Any:
    return {"precision": "fp32", "device": "cpu"}
