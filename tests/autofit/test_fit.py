"""Whole fits of made pictures: the folder, its numbers, resuming, the time, and the command."""

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.autofit import fit as module
from lgkd.autofit.folder import FIT
from lgkd.cli import run
from lgkd.data.names import dataset_key
from lgkd.errors import InputError, Paused, ShortTimeError, TakenError
from lgkd.runner import dry_run, fit_time
from lgkd.runner.cost import Cost
from lgkd.runs.folder import is_finished, read_run
from tests.support.labels import make_table
from tests.support.small import make_pictures

TINY = {"depth": 3, "embed_dim": 24, "num_heads": 2}
SMALL: dict[str, Any] = {
    "student": "vit_96", "teacher": "resnet8", "student_options": TINY, "image_size": 16, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip
WORDS = [
    "--student", "vit_96", "--teacher", "resnet8", "--image-size", "16", "--precision", "fp32", "--device", "cpu",
    *(word for name, value in TINY.items() for word in ("--student-option", f"{name}={value}")),
]  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten training and four test images of each of three classes."""
    return make_pictures(tmp_path / "pictures", train=10)


def test_a_fit_trains_reports_and_exports_into_one_folder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fitted"
    said: list[str] = []
    found = lgkd.fit(pictures, epochs=2, baseline=True, flip=False, out=out, say=said.append, **SMALL)
    assert {path.name for path in out.iterdir()} == {
        FIT, "teacher", "teachers", "students", "report.html", "report", "export",
    }  # fmt: skip
    guided, alone = (read_run(out / "students" / f"seed0-{kind}") for kind in ("guided", "unguided"))
    teacher = read_run(out / "teacher")
    for name, info in (("guided", guided), ("unguided", alone), ("teacher", teacher)):
        assert found.results[name]["top1"] == info["results"]["test_top1"]
        assert found.results[name]["images"] == 12 and found.results[name]["balanced_accuracy"] is None
        slower = ["optimizer.lr=3e-3"] if name == "unguided" else []
        assert info["epochs"] == 2 and info["overrides"] == ["view.flip=0", "view.alternate_flip=false", *slower]
        assert info["student"]["image_size"] == [16, 16]
    assert guided["teacher"]["sha256"] == json.loads(
        next((out / "teachers").glob("*/resnet8/card.json")).read_text()
    )["weights_sha256"]  # fmt: skip
    gain = found.results["gain"]
    assert gain["mean"] == pytest.approx(guided["results"]["test_top1"] - alone["results"]["test_top1"])
    assert gain["low"] <= gain["mean"] <= gain["high"] and gain["interval_over"] == "images"
    assert found.left_out == {} and found.report is not None and "unguided" in found.report.read_text()
    assert found.export is not None and (found.export / "README.md").is_file()
    assert len(lgkd.predict(found.export / "student.safetensors", pictures / "test")) == 12
    assert not list(Path(os.environ["LGKD_HOME"]).glob("teachers/*")), "the user's store is not changed"
    plan = [line for line in said if line.startswith(("images ", "student ", "flips "))]
    assert [line.split()[1] for line in plan] == ["30", "none", "vit_96"]
    _the_finished_fit_is_read_again(pictures, out, found, capsys)


def _the_finished_fit_is_read_again(pictures: Path, out: Path, found: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def watch(title: str) -> Any:
        raise AssertionError(f"{title} would be trained again")

    again = lgkd.fit(pictures, epochs=2, baseline=True, flip=False, out=out, watch=watch, **SMALL)
    assert again.as_dict() == found.as_dict()
    command = ["fit", str(pictures), *WORDS, "--epochs", "2", "--with-baseline", "--no-flip", "--out", str(out)]
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.as_dict()))
    assert run([*command, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["guided", "unguided", "teacher", "gain", "by"]
    assert "one seed cannot tell" in lines[4]
    assert any(line.strip().startswith("lgkd predict ") for line in lines)
    with pytest.raises(TakenError, match=r"(?s)of other arguments.*epochs: was 2, now 3\n  flip: was false, now true"):
        lgkd.fit(pictures, epochs=3, baseline=True, out=out, **SMALL)
    # What was trained is not silently trained again without its teacher.
    state = json.loads((out / FIT).read_text())
    (out / FIT).write_text(json.dumps(state | {"results": None}))
    (out / "teachers").rename(out / "moved")
    with pytest.raises(InputError, match=r"is finished, but its teacher is not at .*remove .*and it is trained again"):
        lgkd.fit(pictures, epochs=2, baseline=True, flip=False, out=out, **SMALL)


def test_a_fit_of_several_labels_an_image_is_judged_by_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = make_table(tmp_path / "set"), tmp_path / "fitted"
    command = ["fit", str(table), *WORDS, "--epochs", "2", "--baseline", "--out", str(out)]
    assert run([*command, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "several labels an image: " in shown and "logits compared label by label" in shown
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    runs = {kind: read_run(out / "students" / f"seed0-{kind}")["results"] for kind in ("guided", "unguided")}
    runs["teacher"] = read_run(out / "teacher")["results"]
    for name, results in runs.items():
        assert found[name]["map"] == results["test_map"] and found[name]["micro_f1"] == results["test_micro_f1"]
        assert found[name]["low"] is None and "top1" not in found[name]
    gain = runs["guided"]["test_map"] - runs["unguided"]["test_map"]
    assert found["gain"] == {"mean": pytest.approx(gain), "low": None, "high": None, "interval_over": None}
    terms = lgkd.load_recipe(out / "students/seed0-guided/recipe.yaml").guide.terms
    assert [term.kind for term in terms] == ["locality", "kd"]
    assert (out / "report.html").is_file() and found["left_out"] == {}
    assert run([*command, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mean average precision on" in lines[0] and lines[4].strip().startswith("one seed has no interval")


def test_a_stopped_fit_resumes_to_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    whole = lgkd.fit(pictures, epochs=2, out=tmp_path / "whole", **SMALL)
    parts = tmp_path / "parts"
    with pytest.raises(Paused, match="run the same command again"):
        lgkd.fit(pictures, epochs=2, out=parts, max_time=0.001, **SMALL)
    spent = json.loads((parts / FIT).read_text())["seconds"]
    assert spent > 0 and not is_finished(parts / "teacher")
    with pytest.raises(Paused):
        lgkd.fit(pictures, epochs=2, out=parts, max_time=0.001, **SMALL)
    assert json.loads((parts / FIT).read_text())["seconds"] > spent, "seconds of all calls add up"
    for _ in range(8):
        try:
            found = lgkd.fit(pictures, epochs=2, out=parts, max_time=3.0, **SMALL)
            break
        except Paused:
            pass
    else:
        found = lgkd.fit(pictures, epochs=2, out=parts, **SMALL)
    weights = [
        lgkd.load_student(one.folder / "students" / "seed0-guided").state_dict() for one in (whole, found)
    ]  # fmt: skip
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    assert found.results["guided"] == whole.results["guided"] and found.results["gain"] is None


def test_a_limit_that_ends_between_teacher_and_student_pauses(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module._Fit, "_train_teacher", lambda *_: None)
    monkeypatch.setattr(
        module._Fit,
        "_load_teacher",
        lambda *_: lgkd.Teacher(lgkd.create_teacher("resnet8", num_classes=3), image_size=16),
    )
    with pytest.raises(Paused, match=r"paused after 0\.001 seconds; run the same command again to resume"):
        lgkd.fit(pictures, epochs=1, out=tmp_path / "out", max_time=0.001, **SMALL)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of 40 s of an unguided model and 80 s of a guided one, beside which their real time is small."""
    calls: list[int] = []

    def measure(student: object, guides: tuple[object, ...], *_: object, longest: float) -> Cost:
        assert 3 <= longest <= 30
        calls.append(len(guides))
        return Cost(5, 80.0 if guides else 40.0, 0.0, 0, "", 1)

    monkeypatch.setattr(fit_time, "measure", measure)
    return calls


def test_the_time_is_divided_among_the_trainings(pictures: Path, tmp_path: Path, measured: list[int]) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    found = lgkd.fit(pictures, time=12_000, baseline=True, out=out, say=said.append, **SMALL)
    teacher, guided, alone = (
        lgkd.load_recipe(out / place / "recipe.yaml").schedule.steps
        for place in ("teacher", "students/seed0-guided", "students/seed0-unguided")
    )
    # Four tenths of 12,000 s less the start, at 40 s a step.
    assert 50 < teacher <= 120
    # 12,000 s less 30 s at the end, and what the teacher really took; each step of both takes 120 s.
    assert guided == alone and 80 < guided <= 11_970 / 120
    kinds = [kind for kind, _ in groupby(measured)]
    assert kinds == [0, 1, 0], "teacher, guided, unguided; each again with the settings of its length"
    assert json.loads((out / FIT).read_text())["length"]["steps"] == guided
    assert found.results["promised"] == 12_000
    infos = [read_run(out / "students" / f"seed0-{kind}") for kind in ("guided", "unguided")]
    assert [info["time"]["timed"] for info in infos] == ["own", "guided"]
    assert any(line.startswith(f"{guided} steps of each student are chosen") for line in said)


def test_a_time_without_room_for_the_students_gives_them_the_fewest_steps(
    pictures: Path, tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._Fit, "_seconds_left", lambda _: 1.0)
    said: list[str] = []
    out = tmp_path / "out"
    lgkd.fit(pictures, time=6000, out=out, say=said.append, **SMALL)
    schedule = lgkd.load_recipe(out / "students/seed0-guided/recipe.yaml").schedule
    assert schedule.steps == 50
    # An eighth of 50 steps of 16 of 30 images, as in the recipe.
    assert schedule.warmup_epochs == pytest.approx(50 * 16 / 30 / 8, rel=1e-3)
    assert any("enough for fewer than 50 steps of the student" in line for line in said)


def test_a_time_that_is_too_short_for_the_teacher_is_refused_with_the_least(
    pictures: Path, tmp_path: Path, measured: list[int]
) -> None:
    with pytest.raises(
        ShortTimeError, match=r"the time of 5s is too short for resnet8 at 16 px.*give --time \w+ or"
    ) as found:
        lgkd.fit(pictures, time=5, out=tmp_path / "out", **SMALL)
    # Fifty steps of 40 s are 2,000 s, and these are four tenths.
    assert found.value.least >= 2000 / 0.4


def test_a_report_that_cannot_be_written_leaves_the_rest(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("no room for a report")

    monkeypatch.setattr(module, "report_on", refuse)
    assert run(["fit", str(pictures), *WORDS, "--epochs", "1", "--quiet", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "no report: no room for a report" in out and "lgkd predict" in out
    assert json.loads((tmp_path / "out" / FIT).read_text())["left_out"] == {"report": "no room for a report"}


def test_several_seeds_give_the_gain_an_interval_over_them(pictures: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["--epochs", "1", "--baseline", "--seeds", "0,1", "--quiet", "--out", str(out)]
    assert run(["fit", str(pictures), *WORDS, *words]) == 0
    assert "95 % over 2 seeds" in capsys.readouterr().out
    results = json.loads((out / FIT).read_text())["results"]
    pairs = [
        [read_run(out / "students" / f"seed{seed}-{kind}")["results"]["test_top1"] for seed in (0, 1)]
        for kind in ("guided", "unguided")
    ]
    assert results["guided"]["top1"] == pytest.approx(sum(pairs[0]) / 2)
    assert results["gain"]["mean"] == pytest.approx(sum(pairs[0]) / 2 - sum(pairs[1]) / 2)
    comparison = json.loads((out / "students" / "comparison.json").read_text())["differences"][0]
    assert (results["gain"]["low"], results["gain"]["high"]) == (comparison["low"], comparison["high"])


def test_a_dry_run_prints_plan_and_time_and_writes_nothing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = ["fit", "pictures", *WORDS, "--time", "20m", "--baseline", "--dry-run"]
    assert run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "images", "test", "size", "flips", "colours", "teacher", "student", "recipes", "batch", "held", "length", "on",
        "teacher", "guided", "unguided", "after", "in", "into",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[1] == f"runs/fit_{dataset_key('pictures')}"
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == before
    assert found["plan"]["student"] == "vit_96" and found["promised"] == 1200
    parts = found["seconds"]
    assert parts["together"] == pytest.approx(sum(value for name, value in parts.items() if name != "together"))
    # Whatever a step costs here: the steps are chosen so that all of it fits.
    assert parts["together"] <= 1200
    assert found["guided"]["teachers"] == ["ResNet"] or len(found["guided"]["teachers"]) == 1
    assert found["unguided"]["teachers"] == []


def test_a_dry_run_says_that_a_time_is_too_short(pictures: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A second a step, whatever this machine needs.
    monkeypatch.setattr(dry_run, "measure", lambda *_, **__: Cost(5, 1.0, 0.0, 0, "", 1))
    assert run(["fit", "pictures", *WORDS, "--time", "20s", "--dry-run"]) == 0
    assert "too short for 50 steps of each student; give more --time" in capsys.readouterr().out
