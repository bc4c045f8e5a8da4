"""What `lgkd evaluate RUN --dataset FOLDER` scores: every labelled image of the folder, by the names of its classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import normalize, resize, to_tensor

import lgkd
from lgkd.cli import run
from lgkd.data.labelled import load_labelled
from lgkd.data.load import load_dataset
from lgkd.data.sources.source import find_source
from lgkd.errors import DataError, InputError
from tests.support.small import CLASSES, QUICK, TINY, World, make_pictures


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def evaluated(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["evaluate", str(world.unguided_run), "--dataset", str(folder), "--json", "--device", "cpu"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def right_by_hand(world: World, files: list[Path]) -> dict[str, list[bool]]:
    """Whether each file's class, the name of its folder, is what the student says; read and resized by torchvision."""
    student, about = (
        lgkd.load_student(world.unguided_run),
        json.loads((world.unguided_run / "student.json").read_text()),
    )
    found: dict[str, list[bool]] = {}
    for file in files:
        pixels = resize(to_tensor(Image.open(file)), about["image_size"], 3, antialias=True)
        with torch.no_grad():
            guess = int(student(normalize(pixels, about["mean"], about["std"])[None]).argmax())
        found.setdefault(file.parent.name, []).append(about["classes"][guess] == file.parent.name)
    return found


def test_all_images_of_class_folders_are_scored_and_no_held_out_fifth(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = make_pictures(here / "made", train=11, test=1) / "train"
    flat = flat.rename(here / "flat")
    found = evaluated(world, flat, capsys)
    assert found["images"] == 33 and found["scored"] == f"all 33 labelled images of {flat}"
    by_hand = right_by_hand(world, sorted(flat.glob("*/*.png")))
    expected = [sum(by_hand[name]) / 11 for name in CLASSES]
    assert found["per_class"] == pytest.approx(expected, abs=1.01 / 11), "a rounding may turn an image"
    assert run(["evaluate", str(world.unguided_run), "--dataset", str(flat)]) == 0
    assert f"all 33 labelled images of {flat}" in " ".join(capsys.readouterr().out.split())


def test_a_test_split_alone_and_a_test_split_beside_others_are_scored_whole(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pictures(here / "both", train=3, test=5)
    beside = evaluated(world, folder, capsys)
    shutil.rmtree(folder / "train")
    alone = evaluated(world, folder, capsys)
    assert beside == alone and alone["images"] == 15
    assert alone["scored"] == f"all 15 labelled images of {folder / 'test'}"
    (folder / "test").rename(folder / "Validation")
    assert evaluated(world, folder, capsys)["scored"] == f"all 15 labelled images of {folder / 'Validation'}"
    (folder / "Validation").rename(folder / "train")
    assert evaluated(world, folder, capsys)["scored"] == f"all 15 labelled images of {folder / 'train'}"


def test_what_lies_beside_the_scored_split_is_said(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pictures(here / "both", train=3, test=5)
    assert run(["evaluate", str(world.unguided_run), "--dataset", str(folder)]) == 0
    assert f"not used: train, beside test in {folder}" in " ".join(capsys.readouterr().err.split())


def test_files_that_are_no_images_are_counted_in_one_line(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = make_pictures(here / "made", train=3, test=1) / "train"
    for name in ("rows/notes.txt", "rows/more.TXT", "checks/list.csv"):
        (flat / name).write_text("no image")
    (flat / "checks" / "@eaDir").mkdir()
    shutil.copy(flat / "rows" / "0.png", flat / "checks" / "@eaDir" / "thumb.png")
    line = (
        f"not used in {flat}: 3 files that are not read as images (.txt 2, .csv 1) and 1 folder of thumbnails or the "
        "like (@eaDir 1)"
    )
    assert run(["evaluate", str(world.unguided_run), "--dataset", str(flat)]) == 0
    shown = capsys.readouterr()
    assert " ".join(shown.err.split()).count(line) == 1
    assert f"all 9 labelled images of {flat}" in " ".join(shown.out.split())


@pytest.mark.parametrize("left", [CLASSES[1:], CLASSES[2:]])
def test_some_of_the_classes_are_scored_by_name(
    left: tuple[str, ...], world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_pictures(here / "made", train=7, test=1) / "train"
    every = evaluated(world, whole, capsys)
    for name in set(CLASSES) - set(left):
        shutil.rmtree(whole / name)
    found = evaluated(world, whole, capsys)
    expected = [every["per_class"][place] if name in left else None for place, name in enumerate(CLASSES)]
    assert found["per_class"] == expected, "labels go by name: each class has the accuracy that it had among all"
    assert found["images"] == 7 * len(left)
    assert found["scored"].endswith(f"{whole}, {len(left)} of the 3 classes")
    assert found["classes_without_images"] == [name for name in CLASSES if name not in left]


def test_classes_that_the_student_does_not_know_are_refused_by_name(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pictures(here / "made", (*CLASSES, "spots", "waves"), train=2, test=2)
    words = ["evaluate", str(world.unguided_run), "--dataset"]
    assert run([*words, str(folder)]) == 2
    assert (
        f"{folder / 'test'} has 2 classes that the student does not know: spots, waves; expected folders named as "
        "its classes (checks, columns, rows), or some of them; rename or remove the others" in capsys.readouterr().err
    )
    assert run([*words, str(folder / "train")]) == 2
    assert "has 2 classes that the student does not know: spots, waves" in capsys.readouterr().err
    loaded = load_dataset(folder)
    with pytest.raises(InputError, match=r"made has classes that the student does not know: spots, waves; "):
        lgkd.evaluate(world.unguided_run, dataset=loaded)


def test_a_loaded_data_set_of_some_classes_is_scored_by_name(world: World, here: Path) -> None:
    folder = make_pictures(here / "made", train=2, test=6)
    every = lgkd.evaluate(world.unguided_run, dataset=load_dataset(folder))
    for split in ("train", "test"):
        shutil.rmtree(folder / split / CLASSES[0])
    said: list[str] = []
    found = lgkd.evaluate(world.unguided_run, dataset=load_dataset(folder), say=said.append)
    assert found.per_class == (None, *every.per_class[1:]) and found.images == 12
    assert said[0] == "the 12 test images of made"


def test_of_the_runs_own_folder_what_it_was_trained_on_is_not_scored(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = (make_pictures(here / "made", train=10, test=1) / "train").rename(here / "flat")
    out = here / "run"
    train = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--quiet", "--dataset", str(flat), "--out", str(out)]
    assert run(train) == 0
    capsys.readouterr()
    assert run(["evaluate", str(out), "--json"]) == 0
    by_default = json.loads(capsys.readouterr().out)
    assert by_default["scored"] == f"the 6 test images of {flat}"
    moved = flat.rename(here / "moved")
    assert run(["evaluate", str(out), "--dataset", str(moved), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scored"] == f"the 6 images of {moved} that were held out from the training of this run"
    assert {**found, "scored": ""} == {**by_default, "scored": ""}
    # One image more makes it another folder, of which all are scored.
    shutil.copy(moved / "rows" / "0.png", moved / "rows" / "more.png")
    assert run(["evaluate", str(out), "--dataset", str(moved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 31


def test_classes_may_be_called_as_splits_are_and_a_folder_without_classes_is_refused(here: Path) -> None:
    folder = make_pictures(here / "made", ("test", "train"), train=2, test=1) / "train"
    found = load_labelled(find_source(folder), ("bus", "test", "train"))
    assert found.scored == f"all 4 labelled images of {folder}, 2 of the 3 classes"
    assert found.data.test.labels.tolist() == [1, 1, 2, 2] and len(found.data.train) == 0
    with pytest.raises(DataError, match="holds images, but no class folders"):
        load_labelled(find_source(folder / "test"), ("test", "train"))


def test_to_score_a_folder_leaves_its_training_cache_alone(here: Path) -> None:
    folder = make_pictures(here / "made", train=5, test=1) / "train"
    load_dataset(folder)
    kept = sorted((here / "home" / "cache" / "images").iterdir())
    load_labelled(find_source(folder), CLASSES)
    assert set(kept) < set((here / "home" / "cache" / "images").iterdir())
