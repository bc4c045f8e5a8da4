"""Trainings on images with several labels, through the command line: teacher, student, and what is made of them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

import lgkd
from lgkd.benchmark.subject import load_data
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.data.load import load_dataset
from lgkd.deploy.accuracy import LabelAccuracy
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source as find_student
from lgkd.deploy.serve.predictor import Predictor
from lgkd.errors import InputError
from lgkd.models.teacher_store import read_card
from lgkd.runner.label_checks import check_teacher_labels
from lgkd.runs.folder import read_metrics, read_run, read_student
from lgkd.training.label_scores import MultiLabelScores
from tests.support.labels import NAMES, make_table, write_rows
from tests.support.small import QUICK, TINY, make_pictures, one_thread, pause_after, python
from tests.support.untrained import make_student

TEACH = ["train-teacher", "resnet8", *QUICK, "--image-size", "16", "--quiet"]
TERMS = "guide.terms=[{kind: locality, weight: 2.5}, {kind: kd, temperature: 2.0, weight: 1.0}]"
DISTILL = ["distill", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, *QUICK, "--quiet",
           "--recipe", "locality-guidance", "--set", TERMS]  # fmt: skip
TRAIN = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--quiet", "--recipe", "locality-guidance"]


@dataclass(frozen=True)
class Made:
    """What was trained once for this file."""

    home: Path
    table: Path
    teacher: Path
    guided: Path
    alone: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("labels")
    one = Made(root / "home", make_table(root / "set"), root / "teacher", root / "guided", root / "alone")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(one.home))
        assert run([*TEACH, str(one.table), "--out", str(one.teacher), "--set", "class_weights=balanced"]) == 0
        data = ["--dataset", str(one.table), "--val-fraction", "0.25"]
        assert run([*DISTILL, *data, "--out", str(one.guided), "--set", "label_smoothing=0.1"]) == 0
        assert run([*TRAIN, *data, "--out", str(one.alone), "--set", "label_smoothing=0.1"]) == 0
    return one


@pytest.fixture(autouse=True)
def here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(made.home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def probabilities(made: Made) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the guided student for its test images, from the files alone, and their labels."""
    student, about = lgkd.load_student(made.guided), read_student(made.guided)
    test = load_dataset(made.table).test
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = student((test.pixels.float() / 255 - mean) / std)
    return logits.double().sigmoid(), test.labels


def test_a_run_has_the_numbers_of_scikit_learn(made: Made) -> None:
    found, labels = probabilities(made)
    results = read_run(made.guided)["results"]
    true, named = labels.numpy(), (found > 0.5).numpy()
    for place, name in enumerate(NAMES):
        expected = average_precision_score(true[:, place], found[:, place].numpy())
        assert results["test_by_class"][name]["ap"] == pytest.approx(expected, abs=1e-9)
    assert results["test_map"] == pytest.approx(average_precision_score(true, found.numpy(), average="macro"), abs=1e-9)
    assert results["test_micro_f1"] == pytest.approx(f1_score(true, named, average="micro"), abs=1e-12)
    assert results["test_exact_match"] == pytest.approx(float((true == named).all(axis=1).mean()), abs=1e-12)


def test_run_and_student_say_that_an_image_has_several_labels(made: Made) -> None:
    info = read_run(made.guided)
    assert info["dataset"]["multi_label"] is True
    assert read_student(made.guided)["multi_label"] is True
    assert (info["results"]["selected_on"], info["results"]["selected_by"], info["select_by"]) == ("val", "map", None)
    assert info["teacher"]["test_map"] == read_run(made.teacher)["results"]["test_map"]
    row = read_metrics(made.guided)[-1]
    assert {"loss_kd", "test_map", "val_macro_f1", "train_accuracy"} <= row.keys()
    assert "test_top1" not in row and "test_ece" not in row
    card = json.loads(next(made.home.glob("teachers/*/resnet8/card.json")).read_text())
    assert card["accuracy"]["map"] == read_run(made.teacher)["results"]["test_map"]


def test_evaluate_repeats_the_run(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    results = read_run(made.guided)["results"]
    assert run(["evaluate", str(made.guided), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["map"] == pytest.approx(results["test_map"], abs=1e-6)
    assert found["classes"]["red"]["ap"] == pytest.approx(results["test_by_class"]["red"]["ap"], abs=1e-6)
    assert 0 <= found["agreement"] <= 1
    assert run(["evaluate", str(made.guided), "--dataset", str(made.table.with_name("hot.csv"))]) == 0
    shown = capsys.readouterr().out
    assert "mAP" in shown and "exact match" in shown
    # The other table has the same images and labels, of which the held-out ones are scored.
    assert "held out from the training" in " ".join(shown.split())
    scores = lgkd.evaluate(made.guided)
    assert isinstance(scores, MultiLabelScores) and scores.images == read_run(made.guided)["dataset"]["test_images"]


def test_other_images_need_labels_of_the_same_kind(made: Made, world_pictures: Path) -> None:
    with pytest.raises(InputError, match=r"gives several labels an image, and .* has one label an image"):
        lgkd.evaluate(made.guided, dataset=lgkd.load_dataset("digits"))


@pytest.fixture(scope="module")
def world_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures") / "set")


def test_predict_names_all_labels_above_the_threshold(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(made.guided), str(made.table), "--csv", "out.csv", "--quiet"]) == 0
    assert "all labels right for" in capsys.readouterr().out
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with made.table.open(newline="") as file:
        true = {Path(row["path"]).name: row["labels"] for row in csv.DictReader(file)}
    assert len(rows) == len(true)
    for row in rows:
        assert row["truth"] == true[Path(row["image"]).name]
        above = {name for name in NAMES if float(row[f"p_{name}"]) > 0.5}
        assert set(filter(None, row["labels"].split(";"))) == above
    found = lgkd.predict(made.guided, made.table.parent / "images")
    assert [one.truths for one in found] == [None] * len(found)
    assert all(len(one.confidences) == 3 and one.labels is not None for one in found)
    assert run(["predict", str(made.guided), str(made.table), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown[0]) == {"image", "truth", "labels", "classes"}
    assert run(["predict", str(made.guided), str(made.table)]) == 0
    assert "truth" in capsys.readouterr().out


def test_an_export_says_that_outputs_are_independent_and_is_of_the_student(made: Made) -> None:
    assert run(["export", str(made.guided), "--out", "out", "--format", "safetensors", "--quiet"]) == 0
    assert json.loads(Path("out/student.json").read_text())["multi_label"] is True
    card = Path("out/README.md").read_text()
    assert "independent of each other" in card and "np.flatnonzero(shares > 0.5)" in card and "| mAP |" in card
    assert "softmax" not in card.replace("Do not apply a softmax", "")
    before, after = (lgkd.predict(place, made.table.parent / "images") for place in (made.guided, "out"))
    assert [one.labels for one in before] == [one.labels for one in after]


def test_compare_and_report_show_map(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(made.guided), str(made.alone), "--csv", "c.csv", "--png", "c.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"].startswith("mean average precision")
    values = {one["label"]: one["map"]["mean"] for one in found["groups"]}
    assert values["deit_tiny by resnet8"] == read_metrics(made.guided)[-1]["test_map"]
    with Path("c.csv").open(newline="") as file:
        head = next(csv.reader(file))
    assert "map" in head and "exact_match" in head and "best_on_test_map" in head and "top1" not in head
    assert run(["compare", str(made.guided), str(made.alone)]) == 0
    assert "mAP after the last epoch" in " ".join(capsys.readouterr().out.split())
    page = lgkd.write_report(made.guided, made.alone, out="page.html").read_text()
    assert "Mean average precision over the epochs" in page and "no confusion matrix" in page
    assert "gain in average precision" in page
    with pytest.raises(InputError, match=r"--dataset .* is for reports on one label"):
        lgkd.write_report(made.guided, out="other.html", dataset=made.table)


def test_a_paused_training_goes_on_to_the_same_bits(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*DISTILL, "--dataset", str(made.table), "--val-fraction", "0.25", "--set", "label_smoothing=0.1"]
    with monkeypatch.context() as patch, one_thread():
        pause_after(patch, 5)
        assert run([*words, "--out", "again"]) == 75
    with one_thread():
        assert run(["resume", "again", "--quiet"]) == 0
    assert read_student(Path("again"))["weights_sha256"] == read_student(made.guided)["weights_sha256"]
    assert read_run(Path("again"))["results"]["test_map"] == read_run(made.guided)["results"]["test_map"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "sampler=balanced"], "sampler: balanced: for images of one class each"),
        (["--set", "logit_adjustment=1.0"], "logit_adjustment: 1: for images of one class each"),
        (["--val-fraction", "0.25", "--select-by", "top1"], "--select-by top1 is not defined for several labels"),
        (["--images-per-class", "4"], "--images-per-class 4 counts images of one class each"),
        (["--groups", "level:1", "--val-fraction", "0.25"], "have no such folder"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_what_needs_one_label_an_image_is_refused(
    more: list[str], words: str, dry: bool, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*TRAIN, "--dataset", str(made.table), "--out", "no", *more, *(["--dry-run"] if dry else [])]
    assert run(given) == 2
    shown = " ".join("".join(capsys.readouterr()).split())
    assert words in shown, shown
    assert not Path("no").exists()


def test_extra_folders_and_terms_of_exclusive_classes_are_refused(
    made: Made, world_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--dataset", str(made.table), "--out", "no"]
    assert run([*TRAIN, *base, "--extra", str(world_pictures / "train")]) == 2
    assert "the images of" in (shown := " ".join("".join(capsys.readouterr()).split())) and "several labels" in shown
    for kind in ("dkd", "dist", "standardized-kd", "luminet"):
        assert run([*DISTILL, *base, "--set", f"guide.terms=[{{kind: {kind}}}]"]) == 2
        shown = " ".join("".join(capsys.readouterr()).split())
        assert f"the term {kind} compares probabilities of classes that exclude each other" in shown


def test_a_teacher_of_one_label_an_image_does_not_guide(made: Made) -> None:
    card = read_card(next(made.home.glob("teachers/*/resnet8")))
    other = card.model_copy(update={"accuracy": card.accuracy.model_copy(update={"map": None})})
    data: Any = SimpleNamespace(multi_label=True, source="photos.csv")
    check_teacher_labels(SimpleNamespace(card=card), data)
    check_teacher_labels(SimpleNamespace(card=None), data)
    with pytest.raises(InputError, match=r"was trained on one label an image, and photos\.csv has several labels"):
        check_teacher_labels(SimpleNamespace(card=other), data)
    data.multi_label = False
    with pytest.raises(InputError, match=r"was trained on several labels an image, and photos\.csv has one label"):
        check_teacher_labels(SimpleNamespace(card=card), data)


def test_a_dry_run_counts_images_and_not_labels(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*DISTILL, "--dataset", str(made.table), "--out", "dry", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"]["train_images"] == read_run(made.teacher)["dataset"]["train_images"]


def test_inspect_bench_and_import_are_refused(made: Made) -> None:
    with pytest.raises(InputError, match="an inspection measures one"):
        lgkd.inspect_run(made.guided, out="seen")
    choices: Any = SimpleNamespace(dataset=made.table, resolved=load_recipe("supervised"), data_dir=None)
    with pytest.raises(InputError, match="a benchmark trains on one"):
        load_data(choices)
    weights = made.teacher / "student.safetensors"
    sha256 = read_student(made.teacher)["weights_sha256"]
    with pytest.raises(InputError, match="imported weights are measured on one"):
        lgkd.import_teacher("resnet8", weights, made.table, sha256=sha256, normalize="imagenet", name="other")


def test_predict_explains_the_most_likely_label(made: Made) -> None:
    pattern = str(made.table.parent / "images" / "00[01].png")
    assert run(["predict", str(made.guided), pattern, "--explain", "maps", "--csv", "out.csv", "--quiet"]) == 0
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["explanation"]).is_file() for row in rows] == [True, True]
    assert run(["predict", str(made.guided), pattern, "--explain", "more", "--json"]) == 0
    found = lgkd.predict(made.guided, made.table, explain="whole")
    assert all(one.explanation is not None and one.truths is not None for one in found) and len(found) == 60


def test_a_server_answers_with_the_labels_above_the_threshold(made: Made) -> None:
    source = open_source(find_student(made.guided), device="cpu")
    predictor = Predictor(source, "x")
    assert predictor.about()["multi_label"] is True
    for expected in lgkd.predict(made.guided, str(made.table.parent / "images" / "00?.png")):
        found = predictor.answer(expected.image.read_bytes(), top_k=1, explain=True)
        assert found["labels"] == list(expected.labels or ()) and found["overlay"]
        shares = [one["confidence"] for one in found["classes"]]
        assert shares == pytest.approx(list(expected.confidences[: max(1, len(found["labels"]))]), abs=1e-6)


def test_exported_files_are_verified_by_map(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(made.guided), "--out", "out", "--format", "safetensors", "--verify"]) == 0
    results = read_run(made.guided)["results"]
    shown = capsys.readouterr().out
    assert "mAP" in shown and "same labels: as the student in fp32" in shown
    found = json.loads(Path("out/export.json").read_text())["test"]["student"]
    assert found["map"] == pytest.approx(results["test_map"], abs=1e-6)
    assert found["micro_f1"] == pytest.approx(results["test_micro_f1"], abs=1e-6) and found["same_labels"] == 1.0
    card = Path("out/README.md").read_text()
    row = f"| `student.safetensors` | {found['map']:.2%} | {found['micro_f1']:.2%} | 100.00% |"
    assert row in card and "| file | mAP | micro F1 | same labels as the student |" in card


def test_files_of_fewer_bits_are_judged_by_map(made: Made) -> None:
    pytest.importorskip("onnxruntime")
    out = lgkd.export(made.guided, "out", formats=["onnx-fp16", "onnx-int8"], max_drop=100.0)
    half, eighth = out.accuracies["student-fp16.onnx"], out.accuracies["student-int8.onnx"]
    assert isinstance(half, LabelAccuracy) and half.same_labels > 0.99
    assert isinstance(eighth, LabelAccuracy) and 0 <= eighth.map <= 1


def test_a_split_val_selects_the_epoch_and_stops_early(made: Made) -> None:
    with made.table.open(newline="") as file:
        rows = [(row["path"], row["labels"]) for row in csv.DictReader(file)]
    parts = [("train", "train", "val", "test")[place % 4] for place in range(len(rows))]
    given = [(*row, part) for row, part in zip(rows, parts, strict=True)]
    table = write_rows(made.table.with_name("parts.csv"), [("path", "labels", "split"), *given])
    words = [
        "--set",
        "early_stopping={patience: 1, min_delta: 0.9}",
        "--select-by",
        "micro_f1",
        "--out",
        "early",
        "--epochs",
        "6",
    ]
    with one_thread():
        assert run([*TRAIN, "--dataset", str(table), *words]) == 0
    info = read_run(Path("early"))
    assert (info["results"]["selected_on"], info["results"]["selected_by"]) == ("val", "micro_f1")
    assert info["results"]["stopped_early"]["metric"] == "micro_f1" and len(read_metrics(Path("early"))) < 6


def test_a_student_of_one_label_takes_a_table_of_several_for_images(made: Made, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="it has several labels an image, and the student gives one"):
        found = lgkd.predict(make_student(tmp_path / "one"), made.table)
    assert len(found) == 60 and {one.truth for one in found} == {None}


def test_a_table_is_known_without_torch(made: Made, tmp_path: Path) -> None:
    code = f"""
import sys
from lgkd.data.sources.table import open_source
from pathlib import Path
print(open_source(Path({str(made.table)!r}), True).listing().classes, "torch" in sys.modules)
"""
    assert python(code, tmp_path).stdout.strip() == "('blue', 'green', 'red') False"
