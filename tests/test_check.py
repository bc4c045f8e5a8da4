"""`lgkd check` and what a training asks first: every fault is found, counted and named; clean data is quiet."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lgkd
from lgkd.cli import run
from lgkd.data import copies as copies_room
from lgkd.data.check import CheckReport, quick_check
from lgkd.data.copies import LISTED, Pair, Pairs, Part, compare, copies_of, digests_of
from lgkd.data.decode import KINDS, Look, survey
from lgkd.data.images import DataSet, Images, fingerprint_of
from lgkd.data.sources import load_dataset
from lgkd.errors import DataError, InputError, MissingError
from tests.small_world import QUICK, TINY, TINY_OPTIONS, make_pictures


def noise(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """FOLDER/{train,test}/{a,b}/N.png: five and two images of noise of each class, all different."""
    root = tmp_path / "pictures"
    for split, start, count in (("train", 0, 5), ("test", 100, 2)):
        for place, name in enumerate("ab"):
            for number in range(count):
                save(root / split / name / f"{number}.png", noise(start + 10 * place + number))
    return root


def printed(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    assert run(["check", *words]) == code
    out, err = capsys.readouterr()
    return out, err


def only(found: tuple[str, ...]) -> str:
    (sentence,) = found
    return sentence


# What is clean


def test_clean_pictures_give_counts_and_nothing_to_remark(pictures: Path) -> None:
    report = lgkd.check(pictures)
    assert isinstance(report, CheckReport)
    assert (report.name, report.folder, report.classes) == ("pictures", str(pictures), ("a", "b"))
    assert (report.train.images, report.train.per_class) == (10, {"a": 5, "b": 5})
    assert (report.test.images, report.test.smallest, report.test.median, report.test.largest) == (4, 2, 2.0, 2)
    assert report.sizes is not None
    assert (report.sizes.different, report.sizes.smallest.width, report.sizes.scaled_down) == (1, 6, 0)
    assert report.imbalance == 1
    assert report.kinds == report.broken == report.unused == report.untested == ()
    assert report.problems == report.remarks == ()


def test_a_report_is_the_same_after_a_trip_through_json(pictures: Path) -> None:
    save(pictures / "test/b/9.png", noise(3))
    plain = lgkd.check(pictures).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["copies"]["leaks"] == {"count": 1, "listed": [{"image": "test/b/9.png", "same_as": "train/a/3.png"}]}


def test_the_table_of_clean_pictures_fits_80_columns_and_ends_well(pictures: Path, capsys) -> None:
    out, _ = printed(capsys, 0, str(pictures))
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(pictures) not in line) <= 80
    assert lines[-1] == "nothing to remark"
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

    monkeypatch.setattr("lgkd.data.check.load_dataset", loaded)
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
        "lgkd: pictures has 2 problems (listed above); a training would not start until they are gone"
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


def test_files_that_are_no_images_are_counted_by_ending(pictures: Path, capsys) -> None:
    for name in ("train/a/notes.txt", "train/b/more.TXT", "train/b/raw", "test/a/photo.heic", ".hidden", "train/a/.x"):
        (pictures / name).write_bytes(b"x")
    report = lgkd.check(pictures)
    assert [(one.ending, one.files) for one in report.unused] == [("no ending", 1), (".heic", 1), (".txt", 2)]
    assert report.unused[2].examples == ("train/a/notes.txt", "train/b/more.TXT")
    assert report.problems == report.remarks == ()
    assert ".heic          1  test/a/photo.heic" in printed(capsys, 0, str(pictures))[0]


def test_sizes_are_counted_and_large_and_tiny_ones_named(pictures: Path, capsys) -> None:
    save(pictures / "train/a/wide.png", noise(60, 100, 300))
    save(pictures / "train/a/dot.png", noise(61, 1, 1))
    report = lgkd.check(pictures)
    sizes = report.sizes
    assert sizes is not None
    assert (sizes.different, sizes.narrowest, sizes.widest, sizes.scaled_down) == (3, 1.0, 3.0, 1)
    assert [(size.width, size.height, size.images) for size in sizes.common] == [(6, 6, 14), (1, 1, 1), (300, 100, 1)]
    assert only(report.remarks) == "1 image with a side of fewer than 4 pixels: train/a/dot.png (1 x 1)"
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
    assert report.tiny == {"only_words": 0, "void": 0}
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
    assert report.tiny == {"A": 4}
    assert report.untested == ("A",)
    assert report.imbalance == 12.5
    tiny, lopsided, alike, untested = report.remarks
    assert tiny == "1 class with fewer than 5 training images: A (4)"
    assert lopsided.startswith("the largest class has 12 times the training images of the smallest (a: 50, A: 4)")
    assert alike == "classes whose names differ only in case or spaces: 'A', 'a'"
    assert untested == "test has no images of 1 class: A"


# Copies and leaks


def test_copies_are_found_by_content_whatever_the_format_and_name(pictures: Path, capsys) -> None:
    save(pictures / "train/a/copy.bmp", noise(0))  # a/0 again
    save(pictures / "train/b/wrong.tif", noise(1))  # a/1 under b
    save(pictures / "test/a/leak.ppm", noise(2))  # a/2
    save(pictures / "test/b/leak.png", noise(3))  # a/3, tested as b
    save(pictures / "test/a/again.png", noise(100))  # test a/0
    report = lgkd.check(pictures)
    found = report.copies
    assert found.train_copies == Pairs(1, (Pair("train/a/copy.bmp", "train/a/0.png"),))
    assert found.train_contradictions == Pairs(1, (Pair("train/b/wrong.tif", "train/a/1.png"),))
    assert found.leaks == Pairs(2, (Pair("test/a/leak.ppm", "train/a/2.png"), Pair("test/b/leak.png", "train/a/3.png")))
    assert found.leaks_of_other_class == 1
    assert found.test_copies == Pairs(1, (Pair("test/a/again.png", "test/a/0.png"),))
    assert found.test_contradictions == Pairs()
    assert report.problems == ()
    leak, contradiction, copy, test_copy = report.remarks
    assert leak == (
        "LEAK: 2 of 7 test images (28.57%) are in the training split too, pixel for pixel, 1 of them under another "
        "class, such as test/a/leak.ppm = train/a/2.png: they do not test what was learned"
    )
    assert contradiction.startswith("1 training image repeats one of another class, pixel for pixel, namely train/b/wr")
    assert (
        copy
        == "1 training image repeats one of the same class, pixel for pixel, namely train/a/copy.bmp = train/a/0.png"
    )
    assert (
        test_copy
        == "1 test image repeats one of the same class, pixel for pixel, namely test/a/again.png = test/a/0.png"
    )
    out, _ = printed(capsys, 0, str(pictures))
    assert "leak: test images that are in the training split too\n" in out
    assert "test/a/leak.ppm  train/a/2.png\n" in out


def test_a_held_out_part_is_compared_as_a_training_would(tmp_path: Path) -> None:
    for name in "ab":
        for number in range(10):
            save(tmp_path / name / f"{number}.png", noise(ord(name)))  # every image of a class is the same
    report = lgkd.check(tmp_path)
    assert (report.train.images, report.test.images) == (16, 4)
    assert report.copies.leaks.count == 4
    assert any("20 % of each class held out" in remark for remark in report.remarks)


def brute_force(train: Part, test: Part) -> dict[str, int]:
    """The definitions, pair by pair."""
    counts = dict.fromkeys(("copies", "contradictions", "leaks", "other"), 0)
    for i, digest in enumerate(train.digests):
        same = [j for j in range(i) if train.digests[j] == digest]
        if any(train.labels[j] == train.labels[i] for j in same):
            counts["copies"] += 1
        elif same:
            counts["contradictions"] += 1
    for i, digest in enumerate(test.digests):
        labels = [train.labels[j] for j in range(len(train.names)) if train.digests[j] == digest]
        counts["leaks"] += bool(labels)
        counts["other"] += bool(labels) and test.labels[i] not in labels
    return counts


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_comparing_every_pair(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def part(name: str, count: int) -> Part:
        digests = [bytes([value]) for value in draw.integers(0, 12, count)]
        return Part([f"{name}{i}" for i in range(count)], draw.integers(0, 3, count).tolist(), digests)

    train, test = part("train", 30), part("test", 15)
    found = compare(train, test)
    assert brute_force(train, test) == {
        "copies": found.train_copies.count,
        "contradictions": found.train_contradictions.count,
        "leaks": found.leaks.count,
        "other": found.leaks_of_other_class,
    }
    content = dict(zip([*train.names, *test.names], [*train.digests, *test.digests], strict=True))
    for pairs in (found.train_copies, found.train_contradictions, found.leaks, found.test_copies):
        assert len(pairs.listed) == pairs.count
        assert all(content[pair.image] == content[pair.same_as] for pair in pairs.listed)


def test_only_so_many_pairs_are_listed_but_all_are_counted() -> None:
    count = LISTED + 7
    train = Part(["one"], [0], [b"x"])
    test = Part([str(i) for i in range(count)], [0] * count, [b"x"] * count)
    leaks = compare(train, test).leaks
    assert (leaks.count, len(leaks.listed)) == (count, LISTED)


def images(pixels: torch.Tensor, labels: list[int], prefix: str) -> Images:
    count, _, height, width = pixels.shape
    sizes = torch.tensor([[height, width]] * count, dtype=torch.int32).reshape(count, 2)
    return Images(pixels, sizes, torch.tensor(labels), tuple(f"{prefix}/{i}" for i in range(count)))


def made(train: Images, test: Images, classes: tuple[str, ...] = ("a", "b")) -> DataSet:
    return DataSet("made", classes, train, test, fingerprint_of(classes, train, test), ())


def distinct(seed: int, count: int, side: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


@pytest.mark.parametrize("side", [4, 37, 64])
def test_digests_are_equal_exactly_where_images_are(side: int) -> None:
    pixels = distinct(0, 6, side)
    pixels[3] = pixels[1]
    pixels[4] = pixels[1]
    pixels[4, 0, 0, 0] ^= 1  # differs in the first byte only: the middle of a large image is the same
    pixels[5] = pixels[1]
    split = images(pixels, [0] * 6, "train")
    split.sizes[5] = torch.tensor([side - 1, side])  # the same canvas, but another image
    other = images(pixels[1:2].clone(), [0], "test")
    (first, *rest), (again,) = digests_of(split, other)
    assert rest[2] == rest[0] == again
    assert len({first, *rest}) == 5


def test_digests_do_not_depend_on_how_pixels_lie_in_memory() -> None:
    pixels = distinct(1, 4, 40)
    turned = pixels.to(memory_format=torch.channels_last)
    assert digests_of(images(pixels, [0] * 4, "x")) == digests_of(images(turned, [0] * 4, "x"))


# Before the first epoch


def leaky() -> DataSet:
    train, test = distinct(2, 12), distinct(3, 4)
    test[1] = train[5]
    train[7] = train[6]
    return made(images(train, [0, 1] * 6, "train"), images(test, [0, 1] * 2, "test"))


def heard(dataset: DataSet) -> list[str]:
    sentences: list[str] = []
    quick_check(dataset, say=sentences.append)
    return sentences


def test_the_quick_check_is_quiet_on_clean_data() -> None:
    assert heard(load_dataset("digits")) == []


def test_the_quick_check_says_each_finding_in_a_sentence() -> None:
    leak, contradiction = heard(leaky())
    assert leak.startswith("LEAK: 1 of 4 test images (25.00%) is in the training split too, pixel for pixel, namely ")
    assert contradiction == (
        "1 training image repeats one of another class, pixel for pixel, namely train/7 = train/6: one label of each "
        "pair is wrong, or the classes overlap"
    )
    few = made(images(distinct(4, 5), [0, 0, 0, 1, 1], "train"), images(distinct(5, 2), [0, 1], "test"))
    assert heard(few) == ["2 classes with fewer than 5 training images: a (3), b (2)"]


def test_images_are_compared_once_for_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*splits: Images) -> list[list[bytes]]:
        calls.append(len(splits))
        return digests_of(*splits)

    monkeypatch.setattr(copies_room, "digests_of", counted)
    first = heard(leaky())
    assert heard(leaky()) == first
    assert calls == [2]
    splits = (leaky().train, leaky().test)
    parts = [Part(s.names, s.labels.tolist(), d) for s, d in zip(splits, digests_of(*splits), strict=True)]
    assert copies_of(leaky()) == compare(*parts)
    other = leaky()
    other.test.pixels[0, 0, 0, 0] ^= 1
    changed = made(other.train, other.test)
    assert heard(changed) == first
    assert calls == [2, 2]


def kept_file(dataset: DataSet) -> Path:
    return Path(os.environ["LGKD_HOME"]) / "cache" / "checks" / f"{dataset.fingerprint}.json"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "\x00"])
def test_a_damaged_kept_result_is_made_anew(content: str) -> None:
    data = leaky()
    first = heard(data)
    whole = kept_file(data).read_text()
    kept_file(data).write_text(content)
    assert heard(data) == first
    assert kept_file(data).read_text() == whole


def test_a_kept_result_of_other_images_is_not_used() -> None:
    data = leaky()
    first = heard(data)
    shorter = DataSet("made", data.classes, data.train, data.test.take(torch.tensor([0])), data.fingerprint, ())
    assert len(heard(shorter)) == len(first) - 1


@pytest.mark.parametrize("fingerprint", ["", "../../away", "none"])
def test_a_fingerprint_that_is_none_keeps_nothing(tmp_path: Path, fingerprint: str) -> None:
    data = leaky()
    odd = DataSet("made", data.classes, data.train, data.test, fingerprint, ())
    assert len(heard(odd)) == 2
    assert list(tmp_path.rglob("*.json")) == []


def test_a_store_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "file"))
    assert len(heard(leaky())) == 2


def test_a_training_speaks_of_a_leak_before_its_first_epoch(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_pictures(tmp_path / "pictures", train=8, test=4)
    Image.open(root / "train/rows/0.png").save(root / "test/rows/9.png")
    words = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--epochs", "1", "--dataset", str(root)]
    assert run(words) == 0
    err = capsys.readouterr().err.splitlines()
    leak = next(place for place, line in enumerate(err) if line.startswith("LEAK: 1 of 13 test images (7.69%) is in "))
    epoch = next(place for place, line in enumerate(err) if "epoch 1/1" in line)
    assert leak < epoch


def test_a_training_on_clean_pictures_hears_nothing_of_the_check(tmp_path: Path) -> None:
    sentences: list[str] = []
    lgkd.train(
        "deit_tiny",
        make_pictures(tmp_path / "pictures"),
        student_options=TINY_OPTIONS,
        image_size=16,
        epochs=1,
        batch_size=8,
        device="cpu",
        out=tmp_path / "run",
        say=sentences.append,
    )
    assert sentences == []
