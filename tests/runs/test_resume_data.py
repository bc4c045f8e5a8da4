"""A run that goes on sees the images of its beginning: near copies left out, deep greys scaled as they were."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.data.greys import BEFORE
from lgkd.errors import MissingError, TakenError
from lgkd.runner import runner
from tests.support.small import TRAIN, make_pictures, pause_after, snapshot


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def command(pictures: Path, out: str, *more: str) -> list[str]:
    return [*TRAIN, "--dataset", str(pictures), "--out", out, *more]


def same_weights(one: str, other: str) -> bool:
    ours, theirs = (load_file(Path(folder) / "student.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def about(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())["dataset"]


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_run_without_near_copies_goes_on_without_the_same_images(
    store: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    pictures = Path("pictures")
    for number in range(36):
        place = pictures / ("train" if number < 27 else "test") / "abc"[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(place)
    picture(0).save(pictures / "test/a/again.jpg", quality=30)
    picture(4).resize((48, 48)).save(pictures / "train/b/smaller.jpg", quality=60)
    assert run(command(pictures, "whole", "--leave-out-near-copies")) == 0
    assert (about("whole")["near_copies_left_out"], about("whole")["train_images"]) == (2, 26)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command(pictures, "parts", "--leave-out-near-copies")) == 75
    (kept,) = (store / "cache" / "checks").glob("*-near.json")
    if forgotten:  # they are found anew
        kept.unlink()
    assert run(["resume", "parts", "--quiet"]) == 0
    assert {**about("parts"), "path": ""} == {**about("whole"), "path": ""}
    assert same_weights("parts", "whole")
    assert run(command(pictures, "all")) == 0
    assert not same_weights("all", "whole"), "with all images it would be another student"


def test_a_run_of_an_older_version_goes_on_with_its_scale_of_deep_greys(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = make_pictures(Path("pictures"))
    for place in pictures.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(place).convert("L")).astype(np.uint16) * 16).save(place)
    real = runner.prepare_data
    with monkeypatch.context() as patch:
        # Older versions read 16-bit greys from 0 to 65,535, and wrote nothing of it into run.json.
        patch.setattr(runner, "prepare_data", lambda *args, **kwargs: real(*args, **{**kwargs, "greys": BEFORE}))
        assert run(command(pictures, "whole")) == 0
        pause_after(patch, 2)
        assert run(command(pictures, "parts")) == 75
    assert "greys" not in about("parts") and "greys" not in about("whole")
    shutil.copytree("parts", "again")
    assert run(["resume", "parts", "--quiet"]) == 0
    assert run(command(pictures, "again")) == 0, "the same command goes on as well"
    for folder in ("parts", "again"):
        assert "greys" not in about(folder) and about(folder)["fingerprint"] == about("whole")["fingerprint"]
        assert same_weights(folder, "whole")
        assert "greys" not in json.loads(Path(folder, "student.json").read_text())
    assert run(command(pictures, "new")) == 0
    assert about("new")["greys"]["whole"] == [0, 4095]
    assert not same_weights("new", "whole")


@pytest.mark.parametrize("again", ["resume", "the same command"])
def test_a_run_goes_on_with_images_that_were_moved(store: Path, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    make_pictures(Path("pictures"))
    assert run(command(Path("pictures"), "whole")) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command(Path("pictures"), "parts")) == 75
    Path("elsewhere").mkdir()
    Path("pictures").rename("elsewhere/photos")
    with pytest.raises(MissingError, match=r"was trained on is no longer at .*/pictures; name it with --dataset"):
        lgkd.resume("parts")
    moved = Path("elsewhere/photos")
    words = ["resume", "parts", "--dataset", str(moved), "--quiet"] if again == "resume" else command(moved, "parts")
    assert run(words) == 0
    assert about("parts") == {**about("whole"), "path": str(moved.resolve())}
    assert same_weights("parts", "whole")


def test_a_run_does_not_go_on_with_other_images(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(Path("pictures"))
    make_pictures(Path("others/pictures"), train=9)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command(Path("pictures"), "parts")) == 75
    before = snapshot(Path("parts"))
    with pytest.raises(TakenError, match=r'dataset.fingerprint: was "\w+", now "\w+"'):
        lgkd.resume("parts", dataset="others/pictures")
    assert snapshot(Path("parts")) == before
    assert lgkd.resume("parts", dataset="others/pictures", force=True).info["dataset"]["train_images"] == 27
