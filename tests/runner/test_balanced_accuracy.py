"""Balanced accuracy in what a training leaves behind, and the remark on a teacher that only knows the largest class."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

import lgkd
from lgkd.cli import run
from lgkd.cli.doctor_checks.assets import look_at_teachers
from lgkd.models.teacher_card import Accuracy
from lgkd.models.teacher_store import find_card
from lgkd.runner.execute import poor_student
from lgkd.runs.folder import METRICS, read_run
from tests.support.manifests import reseal
from tests.support.small import CLASSES, DISTILL, World, make_pictures

STUBBORN = "tests.support.stubborn:stubborn"
NAME = "tests.support.stubborn-stubborn"
QUICK = {"epochs": 1, "batch_size": 4, "precision": "fp32", "device": "cpu", "image_size": 16}
REMARK = (
    f"a poor teacher: {NAME} has 66.7% top-1 on test, little better than always naming the largest class (66.7%): its "
    "balanced accuracy is 33.3%, that of a guess 33.3%; train it longer before using it"
)


@pytest.fixture
def unequal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of which four of the six to test are of the first class."""
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = make_pictures(tmp_path / "pictures")
    for name in CLASSES[1:]:
        for number in range(1, 4):
            (folder / "test" / name / f"{number}.png").unlink()
    return folder


def test_a_teacher_that_always_names_the_largest_class_is_remarked_on_wherever_it_is_met(
    unequal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    lgkd.train_teacher(STUBBORN, unequal, out=tmp_path / "run", say=said.append, **QUICK)
    assert REMARK in said, "train-teacher"
    info = read_run(tmp_path / "run")
    assert info["results"]["test_top1"] == pytest.approx(4 / 6)
    assert info["results"]["test_balanced_accuracy"] == pytest.approx(1 / 3)
    with (tmp_path / "run" / METRICS).open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["test_balanced_accuracy"]) == pytest.approx(1 / 3)
    card, folder = find_card(NAME, "pictures")
    measured = card.accuracy
    assert (measured.seen_classes, measured.largest_class) == (3, pytest.approx(4 / 6))
    assert measured.balanced_accuracy == pytest.approx(1 / 3)
    (poor,) = [one for one in look_at_teachers() if one.what == f"teacher {NAME} for pictures"]
    assert poor.state == "warning" and poor.found == REMARK.partition("has ")[2].partition(";")[0].replace(
        " on test,", " is"
    )
    chosen = [word for word in DISTILL if word != "--quiet"]
    chosen[chosen.index("resnet8")] = NAME
    words = [*chosen, "--dataset", str(unequal), "--taps", "blocks.0", "--out", str(tmp_path / "student")]
    assert run([*words, "--use", "tests.support.stubborn", "--dry-run", "--json"]) == 0
    assert REMARK in json.loads(capsys.readouterr().out)["cautions"]
    # A card of an older lgkd knows its top-1 alone: what the student is measured on tells the largest class.
    about = json.loads((folder / "card.json").read_text())
    for key in ("balanced_accuracy", "seen_classes", "largest_class"):
        del about["accuracy"][key]
    (folder / "card.json").write_text(json.dumps(about))
    reseal(folder)
    shutil.rmtree(tmp_path / "student", ignore_errors=True)
    assert run([*words, "--use", "tests.support.stubborn"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert f"{NAME} has 66.7% top-1 on test, little better than always naming the largest class (66.7%); train" in shown


def test_evaluate_tells_balanced_accuracy_and_the_classes_that_it_leaves_out(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    folder = make_pictures(tmp_path / "pictures")
    shutil.rmtree(folder / "test" / CLASSES[1])
    assert run(["evaluate", str(world.guided_run), "--dataset", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    known = [value for value in found["per_class"] if value is not None]
    assert len(known) == 2 and found["balanced_accuracy"] == pytest.approx(sum(known) / 2)
    assert found["classes_without_images"] == [CLASSES[1]] and found["largest_class"] == 0.5
    assert run(["evaluate", str(world.guided_run), "--dataset", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    share = f"balanced accuracy {found['balanced_accuracy']:.2%}, over 2 of 3 classes; no images of {CLASSES[1]}"
    assert share in shown
    assert "top5" not in found and "top-5" not in shown, "of three classes"
    areas = [one["auroc"] for one in found["classes"].values()]
    assert list(found["classes"]) == list(CLASSES) and areas[1] is None
    assert found["auroc"] == pytest.approx((areas[0] + areas[2]) / 2)
    assert f"one-vs-rest AUROC {found['auroc']:.4f}, over 2 of 3 classes" in shown
    assert f"macro F1 {found['macro_f1']:.2%}" in shown
    for name, one in found["classes"].items():
        assert one["count"] == (0 if name == CLASSES[1] else 4)
        cells = ["-" if one[key] is None else f"{100 * one[key]:.2f}" for key in ("precision", "recall", "f1")]
        area = "-" if one["auroc"] is None else f"{one['auroc']:.4f}"
        assert " ".join([name, str(one["count"]), str(one["predicted"]), *cells, area]) in shown


def test_classes_that_are_never_predicted_are_named_by_training_evaluation_and_report(
    unequal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    lgkd.train(STUBBORN, unequal, out=tmp_path / "run", say=said.append, **QUICK)
    line = f"2 of 3 classes are never predicted: {CLASSES[1]}, {CLASSES[2]}"
    assert f"{STUBBORN} on test: {line}" in said
    words = [str(tmp_path / "run"), "--use", "tests.support.stubborn"]
    assert run(["evaluate", *words]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    assert run(["evaluate", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["never_predicted"] == list(CLASSES[1:])
    assert found["classes"][CLASSES[0]]["precision"] == pytest.approx(4 / 6)
    assert found["classes"][CLASSES[1]]["precision"] == found["classes"][CLASSES[1]]["f1"] == 0
    assert run(["report", *words, "--out", str(tmp_path / "report.html")]) == 0
    page = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text(encoding="utf-8")).split())
    assert page.count(f"{line}.") == 2, "in the summary and class by class"
    assert "class counts alike: balanced accuracy 33.33%, macro F1 26.67%" in page
    assert "balanced accuracy 33.33%" in page and "top-5" not in page
    heads = "class images predicted recall precision F1 AUROC"
    area = found["classes"][CLASSES[0]]["auroc"]
    assert heads in page and f"{CLASSES[0]} 4 6 100.00% 66.67% 80.00% {area:.4f}" in page
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "run")]) == 0
    assert re.search(r"^A +33\.33 +26\.67 +0\.\d{4}$", capsys.readouterr().out, re.M)


def test_a_teacher_of_unequal_classes_is_listed_with_its_balanced_accuracy(
    unequal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lgkd.train_teacher(STUBBORN, unequal, out=tmp_path / "run", **QUICK)
    assert run(["teachers", NAME]) == 0
    assert "balanced accuracy 33.33%" in " ".join(capsys.readouterr().out.split())


def test_the_rows_of_reproduce_hold_it_and_runs_of_an_older_lgkd_have_none(tmp_path: Path) -> None:
    from lgkd.experiments.markdown import section
    from lgkd.experiments.results import Outcome, Row
    from lgkd.experiments.spec import Arm, Experiment
    from lgkd.runs.compare.find import find_runs
    from lgkd.runs.folder import read_metrics, write_metrics
    from tests.support.comparing import make_run

    arms = tuple(Arm(key, f"arm {key}", "resnet8", "teacher", role="teacher") for key in ("old", "new"))
    rows = []
    for arm in arms:
        folders = [make_run(tmp_path / arm.key / f"seed{seed}", 0.5, 0.7, seed=seed) for seed in (0, 1)]
        if arm.key == "new":
            for folder, value in zip(folders, (0.25, 0.35), strict=True):
                known = read_metrics(folder)
                write_metrics(folder, [known[0], known[1] | {"test_balanced_accuracy": value}])
        rows.append(Row(arm, tuple(find_runs(folders))))
    experiment = Experiment("one", "title", "Why?", "full", "cifar100", "all", (0, 1), "long", arms)
    old, new = (row.as_dict()["measured"]["balanced_accuracy"] for row in rows)
    assert old is None and new == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.1 / 2**0.5)}
    heads, _, *cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(Outcome(experiment, tmp_path, tuple(rows))).splitlines()
        if line.startswith("|")
    ]
    place = heads.index("balanced, last epoch")
    assert [line[place] for line in cells] == ["", "30.00 ± 7.07"]
    assert [line[heads.index("last epoch")] for line in cells] == ["70.00 ± 0.00"] * 2
    assert "balanced" not in section(Outcome(experiment, tmp_path, tuple(rows[:1])))


def test_a_student_that_always_names_the_largest_class_is_remarked_on_once(unequal: Path, tmp_path: Path) -> None:
    said: list[str] = []
    lgkd.train(STUBBORN, unequal, out=tmp_path / "run", say=said.append, **QUICK)
    assert [one for one in said if "poor" in one] == [
        f"a poor student: {STUBBORN} has 66.7% top-1 on test, little better than always naming the largest class "
        "(66.7%): its balanced accuracy is 33.3%, that of a guess 33.3%; train it longer, or with another optimizer.lr"
    ]


@pytest.mark.parametrize(
    ("top1", "balanced", "largest", "said"),
    [
        (0.66, 0.34, 0.66, "always naming the largest class"),
        (0.34, 0.34, 0.34, "little better than chance (33.3%)"),
        (0.5, 0.5, 0.34, None),
        (0.60, 0.60, 0.66, None),  # below the largest class, and yet it tells the classes apart
        (0.0, 0.0, 0.34, "little better than chance"),
    ],
)
def test_a_student_is_judged_by_its_balanced_accuracy(
    top1: float, balanced: float, largest: float, said: str | None
) -> None:
    accuracy = Accuracy(
        top1=top1, balanced_accuracy=balanced, largest_class=largest, seen_classes=3, split="test", epoch=1, epochs=1
    )
    found = poor_student("mine", accuracy, 3)
    assert found is None if said is None else found is not None and said in found
