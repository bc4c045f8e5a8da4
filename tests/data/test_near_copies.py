"""Near copies: listed as pairs, and left out of a training that asks for it."""

from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

import lgkd
from lgkd.data.checks.leave_out import without_near_copies
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.perceptual_hash import trace_of
from lgkd.data.prepare import prepare_data
from lgkd.errors import DataError


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number in range(12):
        place = root / ("train" if number < 8 else "test") / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(place)
    picture(0).save(root / "test/a/again.jpg", quality=30)  # train/a/0 at lower quality
    picture(3).resize((48, 48)).save(root / "train/b/smaller.jpg", quality=60)
    return root


def test_an_image_saved_again_at_lower_quality_is_listed_and_not_refused(photos: Path) -> None:
    report = lgkd.check(photos)
    near = report.near_copies
    assert [(pair.image, pair.same_as) for pair in near.leaks.listed] == [("test/a/again.jpg", "train/a/0.png")]
    assert [(pair.image, pair.same_as) for pair in near.train.listed] == [("train/b/smaller.jpg", "train/b/3.png")]
    assert near.test.count == report.copies.leaks.count == len(report.problems) == 0
    assert any("test/a/again.jpg ~ train/a/0.png" in remark for remark in report.remarks)


def test_they_are_left_out_where_that_is_asked_for_and_the_test_split_stays(photos: Path) -> None:
    data = prepare_data(photos, normalize="imagenet", subset=Subset(without_near_copies=True))
    assert "train/a/0.png" not in data.train.names and "train/b/smaller.jpg" not in data.train.names
    assert (len(data.train), len(data.test), data.left_out, data.subset) == (7, 5, 2, "without near copies")
    assert any(
        note.startswith("left out of training: 1 near copies of test images and 1 of other") for note in data.notes
    )
    plain = prepare_data(photos, normalize="imagenet")
    assert (len(plain.train), plain.left_out, plain.subset) == (9, None, None)


def test_a_class_of_which_nothing_would_be_left_is_told(tmp_path: Path) -> None:
    for place, seed in (("train/a/0.png", 0), ("train/b/1.png", 1), ("test/a/0.png", 0), ("test/b/2.png", 2)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(tmp_path / place)
    with pytest.raises(DataError, match="every training image of the class 'a' is a near copy of another image; train"):
        without_near_copies(load_dataset(tmp_path))


def test_the_hash_is_the_librarys_and_flat_or_tiny_images_have_none() -> None:
    trace = trace_of(np.asarray(picture(5)))
    assert trace is not None
    assert f"{trace.phash:016x}" == str(imagehash.phash(picture(5)))
    assert trace_of(np.full((32, 32, 3), 200, np.uint8)) is None
    assert trace_of(np.zeros((8, 8, 3), np.uint8)) is None


def test_a_class_with_17_training_images_is_named(tmp_path: Path) -> None:
    for name, number in (("few", 17), ("many", 40)):
        for place in range(number + 2):
            path = tmp_path / ("train" if place < number else "test") / name / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(1000 * len(name) + place).save(path)
    assert "1 class with fewer than 20 training images: few (17)" in lgkd.check(tmp_path).remarks
