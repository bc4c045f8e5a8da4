"""`--folds`: a training for each fold in one folder, with the fold's own teacher, compared as seeds are."""

import json
import shutil
from pathlib import Path

import pytest

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, MissingTeacherError
from lgkd.runs.compare import compare
from tests.support.small import QUICK, TINY, TINY_OPTIONS, make_pictures, pause_after, snapshot

STUDENT = ["--student", "deit_tiny", *TINY, *QUICK, "--quiet", "--dataset", "pictures"]
TEACH = ["train-teacher", "resnet8", "pictures", *QUICK, "--image-size", "16", "--quiet"]
MEMBERS = [f"seed0-fold{fold}-{kind}" for fold in (1, 2) for kind in ("guided", "unguided")]


@pytest.fixture
def place(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures without a test split, and an empty store."""
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    make_pictures(here / "both")
    shutil.copytree(here / "both/train", here / "pictures")
    return here


def about(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "run.json").read_text())


def test_folds_with_their_teachers_are_trained_compared_kept_and_evaluated(place: Path, capsys, monkeypatch) -> None:
    words = ["distill", "--teacher", "resnet8", *STUDENT, "--folds", "2", "--with-baseline", "--out", "mine"]
    assert run(words) == 3
    assert (
        "no teacher 'resnet8' is trained for pictures without fold 1 of 2 yet; make it with: lgkd train-teacher "
        "resnet8 pictures --folds 2" in capsys.readouterr().err
    )
    assert run([*TEACH, "--out", "whole"]) == 0  # it has seen what every fold is tested on
    assert run(words) == 3
    assert run([*TEACH, "--folds", "2", "--out", "teachers"]) == 0
    names = sorted(path.name for path in Path("home/teachers/pictures").iterdir() if not path.name.startswith("."))
    assert names == ["resnet8", "resnet8--fold-1-of-2-seed-0", "resnet8--fold-2-of-2-seed-0"]
    assert [about(f"teachers/seed0-fold{fold}-teacher")["kind"] for fold in (1, 2)] == ["teacher"] * 2
    before = snapshot(Path("home/teachers"))
    assert run([*TEACH, "--folds", "2", "--out", "teachers"]) == 0
    assert snapshot(Path("home/teachers")) == before
    assert run([*TEACH, "--folds", "2", "--out", "others"]) == 2
    assert "a teacher resnet8--fold-1-of-2-seed-0 for pictures is already in the store" in capsys.readouterr().err

    with monkeypatch.context() as patch:
        pause_after(patch, 3)
        assert run(words) == 75
    capsys.readouterr()
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in Path("mine").iterdir() if path.is_dir()) == sorted(MEMBERS)
    shared = set()
    for name in MEMBERS:
        info = about(Path("mine") / name)
        fold = int(name[10])
        assert info["dataset"]["subset"] == f"fold {fold} of 2, seed 0"
        assert (info["dataset"]["train_images"], info["dataset"]["test_images"]) == (12, 12)
        shared.add(info["dataset"]["fingerprint"])
        if info["kind"] == "distill":
            assert info["teacher"]["kept_as"] == f"resnet8--fold-{fold}-of-2-seed-0"
    assert len(shared) == 1
    found = compare("mine")
    (difference,) = found.differences
    assert [len(group.runs) for group in found.groups] == [2, 2] and difference.paired
    gains = [about(f"mine/seed0-fold{fold}-guided")["results"]["test_top1"]
             - about(f"mine/seed0-fold{fold}-unguided")["results"]["test_top1"] for fold in (1, 2)]  # fmt: skip
    assert [gain for _, gain in difference.by_seed] == pytest.approx(gains)
    assert "pictures, each fold's images: top-1" in printed and "paired over 2 folds (" in printed
    assert "Folds share most of their training images" in printed
    assert "fold" in Path("mine/comparison.csv").read_text().splitlines()[0].split(",")

    one = Path("mine/seed0-fold2-guided")
    scores = lgkd.evaluate(one)
    assert scores.images == 12 and scores.top1 == about(one)["results"]["test_top1"]
    shutil.copytree("pictures", "copy")
    assert lgkd.evaluate(one, dataset="copy").top1 == scores.top1
    assert lgkd.evaluate(one, dataset="copy").images == 12


def test_one_fold_is_one_run_that_resumes_by_its_folder(place: Path, monkeypatch, capsys) -> None:
    words = ["train", *STUDENT, "--folds", "3", "--fold", "2"]
    with monkeypatch.context() as patch:
        pause_after(patch, 1)
        assert run(words) == 75
    folder = "runs/deit_tiny_pictures_fold-2-of-3-seed-0_supervised_seed0"
    assert run(["resume", folder, "--quiet"]) == 0
    assert about(folder)["dataset"]["subset"] == "fold 2 of 3, seed 0"
    capsys.readouterr()
    assert run([*words[:-1], "1", "--dry-run", "--json", "--out", folder]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["dataset"]["train_images"], told["dataset"]["test_images"]) == (16, 8)
    assert not any("no test split found" in one for one in told["cautions"])


def test_a_dry_run_of_all_folds_estimates_untrained_teachers(place: Path, capsys) -> None:
    words = ["distill", "--teacher", "resnet8", *STUDENT, "--folds", "2", "--dry-run", "--json"]
    assert run(words) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["teachers_to_train"][0]["command"] == "lgkd train-teacher resnet8 pictures --folds 2"
    assert told["dataset"]["test_images"] == 12


def test_teachers_of_other_images_are_refused(place: Path) -> None:
    options = {"image_size": 16, "epochs": 1, "batch_size": 8, "device": "cpu", "folds": 2}
    with pytest.raises(InputError, match="--folds 2 is several trainings; name the fold of this one, like fold=1"):
        lgkd.train_teacher("resnet8", "pictures", **options)
    lgkd.train_teacher("resnet8", "pictures", fold=1, out="one", **options)
    teacher = lgkd.load_teacher("resnet8", "pictures", subset="fold 1 of 2, seed 0")
    student = {"student_options": TINY_OPTIONS, "out": "student", **options}
    with pytest.raises(MissingTeacherError, match="without fold 2 of 2 yet"):
        lgkd.distill("deit_tiny", "resnet8", "pictures", fold=2, **student)
    with pytest.raises(InputError) as caught:
        lgkd.distill("deit_tiny", teacher, "pictures", fold=2, **student)
    assert str(caught.value) == (
        "the teacher resnet8--fold-1-of-2-seed-0 was trained on fold 1 of 2, seed 0, and the student is tested on fold "
        "2 of 2, seed 0 of pictures, which it may have seen; train teachers without these images: lgkd train-teacher "
        "resnet8 pictures --folds 2"
    )
    shutil.copy("pictures/rows/0.png", "pictures/rows/9.png")
    with pytest.raises(InputError, match=r"was trained on fold 1 of 2, seed 0 of other files, and"):
        lgkd.distill("deit_tiny", "resnet8", "pictures", fold=1, **student)
    assert not Path("student").exists()


def test_series_of_seeds_train_every_fold(place: Path) -> None:
    series = lgkd.train_series(
        "deit_tiny", "pictures", seeds=(0, 1), folds=2, student_options=TINY_OPTIONS, image_size=16, epochs=1,
        batch_size=8, device="cpu", out="mine",
    )  # fmt: skip
    assert [folder.name for folder in series.folders] == [
        f"seed{seed}-fold{fold}-unguided" for seed in (0, 1) for fold in (1, 2)
    ]
    (group,) = series.comparison.groups
    assert len(group.runs) == 4 and group.units == "folds"
