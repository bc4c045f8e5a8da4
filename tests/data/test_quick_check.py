"""What a training says of its images before the first epoch; of clean ones nothing."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import lgkd
from lgkd.cli import run
from lgkd.data.checks import duplicates as copies_room
from lgkd.data.checks.duplicates import Part, compare, copies_of, digests_of
from lgkd.data.checks.quick_check import quick_check
from lgkd.data.dataset import DataSet, Images
from lgkd.data.load import load_dataset
from lgkd.data.prepare import Data, prepare_data
from tests.support.data import distinct, images, leaky, made
from tests.support.small import QUICK, TINY, TINY_OPTIONS, make_pictures


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
    # What an epoch on so few images makes of a student is not the check's.
    others = ("a poor student: deit_tiny has ", "deit_tiny on test: ")
    assert [one for one in sentences if not one.startswith(others)] == []


def held_out(dataset: DataSet, share: float | None) -> tuple[Data, list[str]]:
    data = prepare_data(dataset, normalize="imagenet", val_fraction=share)
    return data, [note for note in data.notes if "held-out" in note]


def test_held_out_images_that_are_trained_on_too_are_counted_in_one_remark() -> None:
    train = distinct(6, 20)
    train[10:] = train[:10]  # every image twice
    data, notes = held_out(made(images(train, [0, 1] * 10, "train"), images(distinct(7, 2), [0, 1], "test")), 0.3)
    assert data.val is not None
    trained = {image.numpy().tobytes() for image in data.train.pixels}
    same = [image.numpy().tobytes() in trained for image in data.val.pixels]
    assert sum(same) > 0
    (note,) = notes
    assert note.startswith(f"{sum(same)} of 6 held-out images ({sum(same) / 6:.2%}) ")
    assert note.endswith(": the epoch is chosen on images that it has seen")
    first = data.val.names[same.index(True)]
    assert f" {first} = train/{(int(first.removeprefix('train/')) + 10) % 20}: " in note


def test_nothing_is_said_of_held_out_images_that_are_not_trained_on_or_that_nobody_asked_for() -> None:
    train = distinct(6, 20)
    clean = made(images(train, [0, 1] * 10, "train"), images(distinct(7, 2), [0, 1], "test"))
    assert held_out(clean, 0.3)[1] == []
    double = made(images(train[:1].repeat(20, 1, 1, 1), [0, 1] * 10, "train"), clean.test)
    assert held_out(double, None)[1] == []
    assert len(held_out(double, 0.3)[1]) == 1


def test_a_training_with_a_held_out_part_says_so_before_its_first_epoch(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_pictures(tmp_path / "pictures", train=8, test=4)
    for number in range(8, 16):
        Image.open(root / "train/rows/0.png").save(root / f"train/rows/{number}.png")
    words = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--epochs", "1", "--dataset", str(root)]
    assert run([*words, "--val-fraction", "0.5"]) == 0
    err = capsys.readouterr().err.splitlines()
    (remark,) = (place for place, line in enumerate(err) if "held-out images" in line)
    epoch = next(place for place, line in enumerate(err) if "epoch 1/1" in line)
    assert remark < epoch
