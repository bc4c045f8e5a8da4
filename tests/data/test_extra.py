"""Training with a folder of extra images: what is read, what is refused, what is written down, how it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd import api
from lgkd.cli import run
from lgkd.data.extra import load_extra
from lgkd.data.load import load_dataset
from lgkd.errors import DataError, InputError, TakenError
from tests.support.small import QUICK, TINY, TINY_OPTIONS, World, make_pictures


def make_extra(folder: Path, classes: tuple[str, ...] = ("rows", "checks"), *, count: int = 3, side: int = 12) -> Path:
    draw = np.random.default_rng(9)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            level = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(level).save(folder / name / f"{number}.png")
    return folder


def test_extra_images_take_the_labels_and_the_size_of_the_data_set(tmp_path):
    dataset = load_dataset(make_pictures(tmp_path / "pictures"))
    extra = load_extra(make_extra(tmp_path / "made", side=40), dataset, share=0.3)
    assert dataset.classes == ("checks", "columns", "rows")
    assert extra.images.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert extra.images.names[3] == "rows/0.png"
    assert extra.images.pixels.shape == (6, 3, 12, 12)
    again = load_extra(tmp_path / "made", dataset, share=0.3)
    assert torch.equal(again.images.pixels, extra.images.pixels) and again.fingerprint == extra.fingerprint
    assert any("6 extra images" in note and "30%" in note for note in extra.notes)
    assert any("no images of 1 of the 3 classes" in note for note in extra.notes)


def test_the_fingerprint_is_of_the_folder_not_of_who_read_it_first(tmp_path):
    small = load_dataset(make_pictures(tmp_path / "small"))
    large = load_dataset(make_pictures(tmp_path / "large", ("aa", "checks", "columns", "rows")))
    folder = make_extra(tmp_path / "made")
    left, right = (load_extra(folder, dataset, share=0.5) for dataset in (small, large))
    assert left.images.labels.tolist() != right.images.labels.tolist()
    assert left.fingerprint == right.fingerprint
    (folder / "rows").rename(folder / "columns")
    assert load_extra(folder, small, share=0.5).fingerprint != left.fingerprint


def test_classes_that_the_data_set_lacks_are_named(tmp_path):
    dataset = load_dataset(make_pictures(tmp_path / "pictures"))
    folder = make_extra(tmp_path / "made", ("rows", "spots", "dots"))
    with pytest.raises(DataError, match=r"has 2 classes that the data set lacks: dots, spots; expected .*columns"):
        load_extra(folder, dataset, share=0.5)
    (tmp_path / "empty" / "rows").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        load_extra(tmp_path / "empty", dataset, share=0.5)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        load_extra(tmp_path / "nothing", dataset, share=0.5)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--extra-share", "0.5"], 2, "has no images to be a share of; name their folder with --extra"),
        (["--extra", "made", "--extra-share", "1"], 2, "--extra-share is 1, expected a number between 0 and 1"),
        (["--extra", "absent"], 3, "there is no folder absent"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(words, code, message, world: World, here: Path, capsys):
    make_extra(here / "made")
    data = ["--dataset", str(world.pictures)]
    assert run(["train", "--student", "deit_tiny", *data, *words]) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_training_with_extra_images_says_so_and_goes_on_with_the_same_ones(world: World, here: Path, capsys):
    made = make_extra(here / "made")
    student = ["train", "--student", "deit_tiny", "--dataset", str(world.pictures), *TINY, *QUICK]
    words = [*student, "--extra", str(made), "--extra-share", "0.25", "--set", "view.repeats=2"]
    assert run([*words, "--out", "whole"]) == 0
    assert "6 extra images" in " ".join(capsys.readouterr().err.split())
    info = json.loads((here / "whole" / "run.json").read_text("utf-8"))
    about = info["dataset"]["extra"]
    assert about["path"] == str(made.resolve()) and about["images"] == 6 and about["share"] == 0.25
    plain = json.loads((world.unguided_run / "run.json").read_text("utf-8"))
    assert plain["dataset"]["extra"] is None
    assert info["dataset"]["fingerprint"] != plain["dataset"]["fingerprint"]
    # 24 real images, 6 of them in a batch of 8.
    assert info["steps_per_epoch"] == 4 and plain["steps_per_epoch"] == 3
    assert info["dataset"]["test_images"] == plain["dataset"]["test_images"] == 12

    assert run([*words, "--out", "halves", "--max-time", "0"]) == 75
    with pytest.raises(TakenError, match=r"dataset\.extra\.share: was 0\.25, now 0\.5"):
        api.train(
            "deit_tiny", world.pictures, student_options=TINY_OPTIONS, image_size=16, epochs=2, batch_size=8,
            precision="fp32", device="cpu", overrides=["view.repeats=2"], extra=made, out="halves",
        )  # fmt: skip
    resumed = api.resume("halves")
    whole = api.load_run("whole")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


def test_an_option_that_is_no_share_is_refused_in_python_too(world: World, here: Path):
    with pytest.raises(InputError, match="--extra-share is 2"):
        api.train("deit_tiny", world.pictures, extra=make_extra(here / "made"), extra_share=2.0)
