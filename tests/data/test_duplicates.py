"""Images with the same content: copies, contradictions and leaks, against comparing every pair."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lgkd
from lgkd.data.checks.duplicates import LISTED, Pair, Pairs, Part, compare, digests_of
from tests.support.data import distinct, images, noise, noisy_pictures, printed, save


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return noisy_pictures(tmp_path / "pictures")


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
    leak, contradiction, copy, test_copy, _ = report.remarks
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
    assert "leak: test images that are also in the training split\n" in out
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
