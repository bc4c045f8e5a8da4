"""Stored teachers are found by their images: under another name, and not under the same one for other images."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.errors import MissingTeacherError
from tests.support.small import DISTILL, QUICK, TINY_OPTIONS, World, make_pictures, pause_after

SHORT = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 1, "batch_size": 8}


@pytest.fixture(autouse=True)
def _store(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the world's: a teacher resnet8 of a folder `pictures`."""
    shutil.copytree(world.home / "teachers", tmp_path / "home" / "teachers")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_a_teacher_guides_on_the_same_images_in_a_folder_of_another_name(world: World) -> None:
    shutil.copytree(world.pictures, "b/photos")
    assert run([*DISTILL, "--dataset", "b/photos", "--out", "moved"]) == 0
    ours, theirs = (load_file(Path(folder) / "student.safetensors") for folder in ("moved", world.guided_run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    said: list[str] = []
    lgkd.distill("deit_tiny", "resnet8", "b/photos", say=said.append, out="again", **SHORT)
    assert "teacher resnet8: stored under pictures, trained on the images of b/photos" in said
    assert not any("other images" in one for one in said)
    assert lgkd.load_teacher("resnet8", "b/photos").card == lgkd.load_teacher("resnet8", "pictures").card


def test_extra_images_do_not_hide_it(world: World) -> None:
    shutil.copytree(world.pictures, "photos")
    extra = make_pictures(Path("more"), train=3, test=1) / "train"
    said: list[str] = []
    lgkd.distill("deit_tiny", "resnet8", "photos", extra=extra, say=said.append, out="run", **SHORT)
    assert not any("other images" in one for one in said)


def test_other_images_of_the_same_classes_have_no_teacher() -> None:
    make_pictures(Path("photos"), train=5)
    message = r"no teacher 'resnet8' is trained for photos yet; make it with: lgkd train-teacher resnet8 photos"
    with pytest.raises(MissingTeacherError, match=message):
        lgkd.distill("deit_tiny", "resnet8", "photos", out="run", **SHORT)
    with pytest.raises(MissingTeacherError, match=message):
        lgkd.load_teacher("resnet8", "photos")
    assert not Path("run").exists()
    make_pictures(Path("others"), ("checks", "rows"))
    with pytest.raises(MissingTeacherError, match="is trained for others yet"):
        lgkd.distill("deit_tiny", "resnet8", "others", out="run", **SHORT)


def test_of_two_teachers_the_one_of_these_images_guides_and_not_the_one_of_this_name() -> None:
    make_pictures(Path("album"), train=5)
    teach = ["train-teacher", "resnet8", "album", *QUICK, "--image-size", "16", "--quiet", "--out", "t"]
    assert run(teach) == 0
    shutil.copytree("album", "pictures")
    said: list[str] = []
    made = lgkd.distill("deit_tiny", "resnet8", "pictures", say=said.append, out="run", **SHORT)
    card = lgkd.load_teacher("resnet8", "album").card
    assert card is not None and made.info["teacher"]["sha256"] == card.weights_sha256
    assert "teacher resnet8: stored under album, trained on the images of pictures" in said
    # Without it, the one of this name guides as before, and that is said.
    shutil.rmtree("home/teachers/album")
    made = lgkd.distill("deit_tiny", "resnet8", "pictures", say=said.append, out="second", **SHORT)
    assert made.info["teacher"]["sha256"] != card.weights_sha256
    assert any("trained on other images than those of pictures" in one for one in said)


def test_the_subset_of_a_teacher_and_its_images_are_both_remarked_on(world: World) -> None:
    make_pictures(Path("pictures"), train=6)
    said: list[str] = []
    lgkd.distill("deit_tiny", "resnet8", "pictures", fraction=0.5, say=said.append, out="run", **SHORT)
    assert any("the teacher saw all training images" in one for one in said)
    assert any("trained on other images than those of pictures" in one for one in said)


def test_a_stopped_guided_run_goes_on_where_its_images_were_moved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.pictures, "pictures")
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*DISTILL, "--dataset", "pictures", "--out", "parts"]) == 75
    Path("pictures").rename("photos")
    assert run(["resume", "parts", "--dataset", "photos", "--quiet"]) == 0
    ours, theirs = (load_file(Path(folder) / "student.safetensors") for folder in ("parts", world.guided_run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
