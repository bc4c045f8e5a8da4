"""Greys of more than 8 bits: the scale that the training images choose, kept for all that come after."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgkd.data.decode import decode_readable
from lgkd.data.greys import BEFORE, Greys, Range, choose, read_greys
from lgkd.data.load import load_dataset
from lgkd.errors import InputError


def deep(root: Path, values: np.ndarray, name: str = "x.png", **options: object) -> Path:
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (root / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / part / name, **options)
    return root


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_whole_numbers_are_scaled_by_the_depth_in_use(tmp_path: Path, name: str, bits: int) -> None:
    most = 2**bits - 1
    values = np.array([[0, most // 4, most // 2, most]], np.uint16)
    data = load_dataset(deep(tmp_path / "d", values, name))
    assert data.train.pixels[0, 0, 0].tolist() == [round(int(v) / most * 255) for v in values[0]]
    assert data.greys.whole == (0, most)
    assert any("scaled to" in note for note in data.notes) == (bits < 16)
    again = load_dataset(tmp_path / "d")  # from the store
    assert (again.greys, again.notes) == (data.greys, data.notes)


def test_the_test_split_chooses_nothing_and_what_lies_beyond_is_said(tmp_path: Path) -> None:
    root = deep(tmp_path / "d", np.array([[0, 1000]], np.uint16))
    Image.fromarray(np.array([[0, 4000]], np.uint16)).save(root / "test/a/x.png")
    data = load_dataset(root)
    assert data.greys.whole == (0, 1023)
    assert "1 image with greys beyond 0 to 1,023, which become black or white" in data.notes


def test_floats_are_scaled_and_those_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    data = load_dataset(deep(tmp_path / "d", np.array([[0.0, 0.5, 1.0]], np.float32), "x.tif"))
    assert data.train.pixels[0, 0, 0].tolist() == [0, 128, 255]
    assert data.greys.floats == (0.0, 1.0)
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    _, _, broken = decode_readable([tmp_path / "nan.tif"], max_side=8, greys=data.greys)
    assert broken[0] == "its grey values are not all numbers; replace those that are not"
    _, _, broken = decode_readable([tmp_path / "d/test/a/x.tif"], max_side=8)
    assert broken[0] == "its grey values are not of 8 or 16 bits, so their white is unknown"


def test_a_tiff_in_which_0_is_white_is_inverted_but_not_for_older_students(tmp_path: Path) -> None:
    values = np.array([[0, 65535]], np.uint16)
    root = deep(tmp_path / "d", values, "x.tif", tiffinfo={262: 0})
    data = load_dataset(root)
    assert data.train.pixels[0, 0, 0].tolist() == [255, 0]
    assert "4 images that store white as 0: inverted" in data.notes
    assert load_dataset(root, greys=BEFORE).train.pixels[0, 0, 0].tolist() == [0, 255]


def test_what_a_student_was_trained_with_is_used_for_other_images(tmp_path: Path) -> None:
    root = deep(tmp_path / "d", np.array([[0, 2047, 4095]], np.uint16))
    older = load_dataset(root, greys=BEFORE)
    assert older.train.pixels[0, 0, 0].tolist() == [0, 8, 16]
    pixels, _, _ = decode_readable([root / "test/a/x.png"], max_side=8, greys=Greys(whole=(0, 4095)))
    assert pixels[0, 0, 0].tolist() == [0, 127, 255]


def test_the_range_in_use_is_taken_where_a_depth_would_waste_it() -> None:
    assert choose([Range("whole", 31768, 35839, False)]).whole == (31768, 35839)
    assert choose([Range("whole", -1024, 3071, False)]).whole == (-1024, 3071)
    assert choose([Range("whole", 200, 4000, False)]).whole == (0, 4095)
    assert choose([Range("float", -2.0, 6.0, False)]).floats == (-2.0, 6.0)
    assert choose([]) == Greys()


def test_kept_greys_come_back_and_damaged_ones_are_told() -> None:
    greys = Greys((0, 4095), (0.0, 1.0))
    assert read_greys(greys.kept(), "student.json") == greys
    assert read_greys({}, "student.json") == BEFORE and BEFORE.kept() == {}
    with pytest.raises(InputError, match=r"student.json has greys that are .*, expected black and white as two rising"):
        read_greys({"greys": {"whole": [4095, 0]}}, "student.json")
