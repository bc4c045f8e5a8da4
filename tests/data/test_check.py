"""`lgkd check`: every fault is found, counted and named; clean data is quiet."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lgkd
from lgkd.cli import run
from lgkd.data import image_formats
from lgkd.data.checks import duplicates as copies_room
from lgkd.data.checks.report import CheckReport
from lgkd.data.dataset import DataSet
from lgkd.data.decode import Look, survey
from lgkd.data.image_kinds import KINDS
from lgkd.data.load import load_dataset
from lgkd.errors import DataError, InputError, MissingError
from tests.support.data import leaky, noise, noisy_pictures, only, printed, save


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return noisy_pictures(tmp_path / "pictures")


FEW = "2 classes with fewer than 20 training images: a (5), b (5)"

# What is clean


def test_clean_pictures_give_counts_and_nothing_to_remark_but_that_they_are_few(pictures: Path) -> None:
    report = lgkd.check(pictures)
    assert isinstance(report, CheckReport)
    assert (report.name, report.folder, report.classes) == ("pictures", str(pictures), ("a", "b"))
    assert (report.train.images, report.train.per_class) == (10, {"a": 5, "b": 5})
    assert (report.test.images, report.test.smallest, report.test.median, report.test.largest) == (4, 2, 2.0, 2)
    assert report.sizes is not None
    assert (report.sizes.different, report.sizes.smallest.width, report.sizes.scaled_down) == (1, 6, 0)
    assert report.imbalance == 1
    assert report.kinds == report.broken == report.unused == report.untested == ()
    assert (report.problems, report.remarks) == ((), (FEW,))


def test_a_report_is_the_same_after_a_trip_through_json(pictures: Path) -> None:
    save(pictures / "test/b/9.png", noise(3))
    plain = lgkd.check(pictures).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["copies"]["leaks"] == {"count": 1, "listed": [{"image": "test/b/9.png", "same_as": "train/a/3.png"}]}


def test_the_table_of_clean_pictures_fits_80_columns_and_ends_well(pictures: Path, capsys) -> None:
    out, _ = printed(capsys, 0, str(pictures))
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(pictures) not in line) <= 80
    assert lines[-1] == f"- {FEW}"
    assert "images    10 train, 4 test" in lines
    assert "size      6 x 6" in lines
    assert "train      10       5       5     5" in lines


def test_on_a_terminal_nothing_is_wider_than_80_columns(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    save(pictures / f"test/a/{'long' * 30}.png", noise(1))
    (pictures / f"train/a/{'bad' * 30}.png").write_bytes(b"bad")
    screen = Terminal()
    for name, value in (("COLUMNS", "80"), ("LINES", "40"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", screen)
    assert run(["check", str(pictures)]) == 2
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).splitlines()
    assert len(lines) > 20
    assert max(map(len, lines)) <= 80


def test_digits_are_checked_as_they_come_from_scikit_learn(capsys) -> None:
    from sklearn.datasets import load_digits

    pixels = load_digits().images.reshape(1797, 64)
    assert len(np.unique(pixels, axis=0)) == 1797
    report = lgkd.check("digits")
    assert report.train.images + report.test.images == 1797
    assert report.folder is None
    assert report.copies == lgkd.check(load_dataset("digits")).copies == copies_room.Copies()
    out, err = printed(capsys, 0, "digits", "--json")
    assert json.loads(out) == report.as_dict()
    assert err == ""


def test_a_named_set_without_files_of_images_is_checked_as_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is read from its publisher's archive."""
    asked = []

    def loaded(name: str, **options: object) -> DataSet:
        asked.append((name, options["data_dir"]))
        return leaky()

    monkeypatch.setattr("lgkd.data.checks.report.load_dataset", loaded)
    report = lgkd.check("cifar10", data_dir=tmp_path)
    assert asked == [("cifar10", tmp_path)]
    assert (report.folder, report.train.images, report.copies.leaks.count) == (None, 12, 1)


def test_a_check_of_a_folder_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    lgkd.check(pictures)
    assert sorted(tmp_path.rglob("*")) == before


# Broken and odd files


def test_every_broken_file_is_named_with_its_reason_and_the_exit_code_is_2(pictures: Path, capsys) -> None:
    whole = (pictures / "train/a/0.png").read_bytes()
    (pictures / "train/a/cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "train/b/empty.jpg").write_bytes(b"")
    (pictures / "test/b/words.gif").write_text("not an image")
    (pictures / "train/b/gone.png").symlink_to(pictures / "nowhere.png")
    report = lgkd.check(pictures)
    reasons = {one.name: one.reason for one in report.broken}
    assert sorted(reasons) == ["test/b/words.gif", "train/a/cut.png", "train/b/empty.jpg"]
    assert reasons["train/b/empty.jpg"] == "it is empty"
    assert reasons["test/b/words.gif"] == "not an image that Pillow knows"
    assert "truncated" in reasons["train/a/cut.png"]
    link, broken = report.problems
    assert link == f"cannot read {pictures}/train/b/gone.png: No such file or directory; check the folder and its links"
    assert broken.startswith("3 of 17 images cannot be read: train/a/cut.png (")
    assert broken.endswith(": replace them or remove them")
    assert (report.train.images, report.test.images) == (10, 4)
    out, err = printed(capsys, 2, str(pictures))
    assert f"broken images\n{'file':<17}  why\n" in out
    assert "problems\n- cannot read " in out
    assert err.splitlines()[-1] == (
        "lgkd: pictures has 2 problems (listed above); a training does not start until they are fixed"
    )


def test_a_training_refuses_what_the_check_calls_a_problem(pictures: Path) -> None:
    (pictures / "train/a/bad.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"train/a/bad\.png"):
        load_dataset(pictures)
    assert "train/a/bad.png" in only(lgkd.check(pictures).problems)


def test_a_folder_of_nothing_but_broken_files_is_still_reported(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"bad")
    report = lgkd.check(tmp_path)
    assert len(report.broken) == 4
    assert report.sizes is None
    assert report.imbalance is None
    assert report.train.images == 0


def test_images_that_are_not_plain_rgb_are_counted_with_what_becomes_of_them(pictures: Path, capsys) -> None:
    folder = pictures / "train/a"
    colours = Image.fromarray(noise(50))
    grey = colours.convert("L")
    grey.save(folder / "grey.png")
    colours.convert("P").save(folder / "palette.png")
    colours.convert("RGBA").save(folder / "rgba.png")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(51)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    colours.save(folder / "frames.gif", save_all=True, append_images=[Image.fromarray(noise(52))])
    colours.save(folder / "frames.png", save_all=True, append_images=[Image.fromarray(noise(53))])
    colours.save(folder / "frames.tif", save_all=True, append_images=[Image.fromarray(noise(54))])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(55, 6, 9)).save(folder / "turned.jpg", exif=exif)
    report = lgkd.check(pictures)
    kinds = {kind.name: kind for kind in report.kinds}
    assert report.problems == ()
    assert {name: kind.images for name, kind in kinds.items()} == {
        "grey": 2, "palette": 2, "transparent": 1, "CMYK": 1, "16-bit": 1, "several frames": 3, "turned by EXIF": 1,
    }  # fmt: skip
    assert kinds["grey"].examples == ("train/a/deep.png", "train/a/grey.png")
    assert kinds["several frames"].examples == tuple(f"train/a/frames.{end}" for end in ("gif", "png", "tif"))
    assert all(kind.becomes == KINDS[kind.name] for kind in report.kinds)
    assert report.sizes is not None
    assert report.sizes.largest.height == 9  # upright: nine high, six wide
    out, _ = printed(capsys, 0, str(pictures))
    assert "CMYK                 1  RGB, no colour profile applied  train/a/cmyk.jpg" in out


def test_16_bit_colours_are_told_from_8_bit_ones(tmp_path: Path) -> None:
    # Pillow writes no such file: a PNG by hand, 1 x 1, 16 bits a channel.
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 0, 257))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    (look,) = survey(tmp_path, ["deep.png"])
    assert isinstance(look, Look)
    assert look.kinds == ("16-bit",)


def test_a_broken_later_frame_does_not_break_the_first(tmp_path: Path) -> None:
    first = Image.fromarray(noise(1, 40, 40))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[Image.fromarray(noise(2, 40, 40))])
    content = (tmp_path / "x.gif").read_bytes()
    (tmp_path / "x.gif").write_bytes(content[:-300])
    (look,) = survey(tmp_path, ["x.gif"])
    assert isinstance(look, Look)
    assert "several frames" in look.kinds


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lgkd.data.image_formats.find_spec", lambda _: None)
    image_formats.read_formats.cache_clear(), image_formats.read_endings.cache_clear()
    yield
    image_formats.read_formats.cache_clear(), image_formats.read_endings.cache_clear()


def test_files_that_are_no_images_are_counted_by_ending(pictures: Path, capsys, without_heic: None) -> None:
    for name in ("train/a/notes.txt", "train/b/more.TXT", "train/b/raw", "test/a/photo.heic", ".hidden", "train/a/.x"):
        (pictures / name).write_bytes(b"x")
    report = lgkd.check(pictures)
    assert [(one.ending, one.files) for one in report.unused] == [("no ending", 1), (".heic", 1), (".txt", 2)]
    assert report.unused[2].examples == ("train/a/notes.txt", "train/b/more.TXT")
    assert report.problems == ()
    few, unused = report.remarks
    assert few == FEW
    assert unused.startswith(f"not used in {pictures}: 4 files that are not read as images (.txt 2, ")
    assert ".heic          1  test/a/photo.heic" in printed(capsys, 0, str(pictures))[0]


def test_sizes_are_counted_and_large_and_tiny_ones_named(pictures: Path, capsys) -> None:
    save(pictures / "train/a/wide.png", noise(60, 100, 300))
    save(pictures / "train/a/dot.png", noise(61, 1, 1))
    report = lgkd.check(pictures)
    sizes = report.sizes
    assert sizes is not None
    assert (sizes.different, sizes.narrowest, sizes.widest, sizes.scaled_down) == (3, 1.0, 3.0, 1)
    assert [(size.width, size.height, size.images) for size in sizes.common] == [(6, 6, 14), (1, 1, 1), (300, 100, 1)]
    assert report.remarks[1] == "1 image with a side of fewer than 4 pixels: train/a/dot.png (1 x 1)"
    out, _ = printed(capsys, 0, str(pictures))
    assert "sizes           3, from 1 x 1 to 300 x 100\n" in out
    assert "scaled down     1 images, in a training\n" in out


# Structure


def test_all_faults_of_the_structure_are_told_at_once(pictures: Path) -> None:
    (pictures / "train/void").mkdir()
    (pictures / "train/only_words").mkdir()
    (pictures / "train/only_words/a.txt").write_text("x")
    save(pictures / "test/dog/1.png", noise(70))
    (pictures / "train/a/bad.png").write_bytes(b"bad")
    report = lgkd.check(pictures)
    words, void, dog, bad = report.problems
    assert "class folder" in words and "only_words holds no images (only other files: .txt)" in words
    assert "void holds no images (it is empty)" in void
    assert "test has 1 class that train lacks: dog" in dog
    assert "1 of 15 images cannot be read" in bad
    assert report.tiny == {"a": 5, "b": 5, "only_words": 0, "void": 0}
    assert report.imbalance is None
    with pytest.raises(DataError):
        load_dataset(pictures)


def test_a_folder_without_a_layout_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "x").mkdir()
    out, err = printed(capsys, 2, str(tmp_path / "x"))
    assert out == ""
    assert err.count("\n") == 1
    assert "holds no class folders and no images: expected FOLDER/train/CLASS/*" in err
    with pytest.raises(InputError, match="did you mean 'digits'"):
        lgkd.check("digit")
    with pytest.raises(MissingError, match="cifar100 is not here"):
        lgkd.check("cifar100", data_dir=tmp_path)


def test_a_named_set_with_other_classes_is_a_problem_and_is_looked_at_all_the_same(pictures: Path) -> None:
    report = lgkd.check("cifar10", data_dir=pictures)
    assert "has 2 classes, cifar10 has 10" in only(report.problems)
    assert report.train.images == 10
    assert any("50,000" in remark for remark in report.remarks)


def test_one_class_alone_is_a_problem(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / f"all/{number}.png", noise(number))
    assert "one class only, 'all'" in only(lgkd.check(tmp_path).problems)


def test_a_class_of_one_image_without_a_test_split_is_a_problem(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name, noise(len(name) + ord(name[0]) + ord(name[2])))
    report = lgkd.check(tmp_path)
    assert "the class 'b' holds 1 image: a class needs at least 2 to hold one out" in only(report.problems)
    assert report.train.images == 3


def test_tiny_lopsided_missing_and_alike_classes_are_named(pictures: Path) -> None:
    for number in range(45):
        save(pictures / f"train/a/more{number}.png", noise(1000 + number))
    for number in range(4):
        save(pictures / f"train/A/{number}.png", noise(2000 + number))
    report = lgkd.check(pictures)
    assert report.problems == ()
    assert report.tiny == {"A": 4, "b": 5}
    assert report.untested == ("A",)
    assert report.imbalance == 12.5
    tiny, lopsided, alike, untested = report.remarks
    assert tiny == "2 classes with fewer than 20 training images: A (4), b (5)"
    assert lopsided.startswith("the largest class has 12 times the training images of the smallest (a: 50, A: 4)")
    assert alike == "classes whose names differ only in case or spaces: 'A', 'a'"
    assert untested == "test has no images of 1 class: A"
