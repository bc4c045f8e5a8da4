"""Named data sets from their publishers' files: small archives of the published layout, made here."""

import ast
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lgkd
from lgkd.cli import run
from lgkd.data.catalogue import CATALOGUE, PUBLISHED, ROWS, published
from lgkd.data.load import load_dataset
from lgkd.data.sources.source import NamedSource, find_source, source_of
from lgkd.errors import DataError, InputError, MissingError
from tests.support.data import message
from tests.support.published import (
    TEST,
    TRAIN,
    as_published,
    image_tree,
    jpeg,
    make_cifar,
    make_flowers,
    pictures,
    records,
    same,
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return partial(make_cifar, tmp_path / "given", monkeypatch)


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return partial(make_flowers, tmp_path / "given", monkeypatch)


# CIFAR


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_binary_archive_and_the_image_tree_of_the_same_images_are_the_same(
    tmp_path: Path, made: Callable[..., Path], name: str, use_cache: bool
) -> None:
    archive = load_dataset(name, data_dir=made(name).parent, use_cache=use_cache)
    tree = load_dataset(name, data_dir=image_tree(tmp_path / "tree" / name).parent, use_cache=use_cache)
    assert archive.classes == ("beaver", "otter", "pear")
    assert archive.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 3
    assert same(archive, tree)
    assert archive.fingerprint == tree.fingerprint
    assert archive.name == tree.name == name
    assert archive.notes == tree.notes == ()
    assert archive.train.names[3] == "train/otter/00000"
    assert len(set(archive.train.names + archive.test.names)) == 15


def test_within_a_class_images_stand_as_in_the_archive(made: Callable[..., Path]) -> None:
    data = load_dataset("cifar100", data_dir=made().parent)
    expected = pictures(len(TRAIN), 1)[[1, 3, 6, 9]].transpose(0, 3, 1, 2)  # the records of class 0, otter
    assert np.array_equal(data.train.pixels[data.train.labels == 1].numpy(), expected)


@pytest.mark.parametrize("place", ["desk/data", "desk/data/cifar100", "lgkd-home/data/cifar100", "any", "any/cifar100"])
def test_the_archive_is_found_where_a_tree_would_be(tmp_path: Path, made: Callable[..., Path], place: str) -> None:
    path = made()
    (tmp_path / place).mkdir(parents=True)
    path.rename(tmp_path / place / path.name)
    given = {"data_dir": tmp_path / "any"} if place.startswith("any") else {}
    assert len(load_dataset("cifar100", **given).train) == len(TRAIN)


def test_an_image_tree_wins_over_an_archive(tmp_path: Path, made: Callable[..., Path]) -> None:
    path = made()
    tree = image_tree(path.parent / "cifar100")
    (tree / "train/pear/002.png").unlink()
    assert len(load_dataset("cifar100", data_dir=path.parent).train) == len(TRAIN) - 1


def test_decoded_once_it_needs_no_archive_and_shows_no_progress(made: Callable[..., Path]) -> None:
    seen: list[tuple[int, int]] = []
    path = made()
    first = load_dataset("cifar100", data_dir=path.parent, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (15, 15)
    path.unlink()
    seen.clear()
    again = load_dataset("cifar100", progress=lambda *counts: seen.append(counts))
    assert same(first, again)
    assert again.train.names == first.train.names
    assert again.fingerprint == first.fingerprint
    assert seen == []


def test_another_archive_is_decoded_anew(made: Callable[..., Path]) -> None:
    before = load_dataset("cifar100", data_dir=made().parent)
    changed = records(TRAIN, pictures(len(TRAIN), 9), True)
    after = load_dataset("cifar100", data_dir=made(change={"cifar-100-binary/train.bin": changed}).parent)
    assert before.fingerprint != after.fingerprint


def test_a_file_that_is_not_the_published_one_is_refused_and_stays(made: Callable[..., Path]) -> None:
    path = made()
    path.write_bytes(path.read_bytes()[:-8] + b"changed!")
    text = message(DataError, "cifar100", data_dir=path.parent)
    assert text.startswith(f"{path} has SHA-256 ")
    path.write_bytes(b"cut")
    assert message(DataError, "cifar100", data_dir=path.parent).startswith(f"{path} has 3 bytes, the published file ")
    assert path.exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("train.bin", records(TRAIN, pictures(10, 1), True)[:-1], "train.bin in PATH has 499 bytes, expected 500"),
        ("train.bin", bytes(501), "cifar-100-binary/train.bin in PATH has 501 bytes, expected at most 500"),
        ("test.bin", b"\x00\x03" + bytes(48) + bytes(200), "PATH has the label 3, expected 0 to 2"),
        ("fine_label_names.txt", b"a\nb\n", "PATH names 2 classes, cifar100 has 3"),
        ("fine_label_names.txt", b"a\nb\nb\n", "PATH names 2 classes, cifar100 has 3"),
        ("fine_label_names.txt", b"a\n" * 70_000, "cifar-100-binary/fine_label_names.txt in PATH has 140,000 bytes"),
    ],
)
def test_an_archive_of_another_layout_is_refused(
    made: Callable[..., Path], file: str, content: bytes, expected: str
) -> None:
    path = made(change={f"cifar-100-binary/{file}": content})
    assert message(DataError, "cifar100", data_dir=path.parent).startswith(expected.replace("PATH", str(path)))


def test_scaling_down_is_refused_and_a_larger_limit_changes_nothing(made: Callable[..., Path]) -> None:
    folder = made().parent
    text = message(InputError, "cifar100", data_dir=folder, max_side=2)
    assert text == "max_side is 2, but the images of cifar100 are 4 x 4: leave it out"
    whole = load_dataset("cifar100", data_dir=folder)
    assert same(whole, load_dataset("cifar100", data_dir=folder, max_side=64))


def test_what_needs_a_tree_says_so_beside_an_archive(made: Callable[..., Path]) -> None:
    with pytest.raises(MissingError, match=r"^cifar100 is not here as an image tree; looked for folders train and"):
        find_source("cifar100", data_dir=made().parent).listing()


def test_an_archive_is_checked_as_it_is_decoded(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    train, test = pictures(len(TRAIN), 1), pictures(len(TEST), 2)
    test[3] = train[5]  # one of class 2 each: a leak under its own class
    train[9] = train[0]  # class 0, and class 2 before it
    change = {"train.bin": records(TRAIN, train, True), "test.bin": records(TEST, test, True)}
    folder = made(change={f"cifar-100-binary/{name}": content for name, content in change.items()}).parent
    report = lgkd.check("cifar100", data_dir=folder, offline=True)
    assert (report.folder, report.classes) == (None, ("beaver", "otter", "pear"))
    assert report.train.per_class == {"beaver": 3, "otter": 4, "pear": 3}
    assert (report.copies.leaks.count, report.copies.leaks_of_other_class) == (1, 0)
    assert report.copies.leaks.listed[0].image.startswith("test/beaver/")
    assert report.copies.train_contradictions.count == 1
    assert report.problems == ()
    assert run(["check", "cifar100", "--data-dir", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == report.as_dict()
    assert err == ""


# Flowers


def test_flowers_come_in_the_official_splits_under_their_numbers(tmp_path: Path, flowers: Callable[..., Path]) -> None:
    data = load_dataset("flowers102", data_dir=flowers())
    root = tmp_path / "lgkd-home/data/flowers102/images"
    assert data.classes == ("class_001", "class_002")
    assert data.train.names == ("train/class_001/image_00002.jpg", "train/class_002/image_00001.jpg")
    assert [name.split("/", 1)[1] for name in data.test.names] == [
        "class_001/image_00006.jpg",
        "class_001/image_00007.jpg",
        "class_002/image_00005.jpg",
        "class_002/image_00008.jpg",
    ]
    assert (root / "val/class_002/image_00003.jpg").read_bytes() == jpeg(3)
    assert data.notes == (f"not used: val, beside train in {root}",)
    assert data.name == "flowers102"
    assert sorted(path.name for path in root.parent.iterdir()) == ["images"]


def test_flowers_once_arranged_need_no_archive(flowers: Callable[..., Path]) -> None:
    folder = flowers()
    first = load_dataset("flowers102", data_dir=folder)
    for path in folder.iterdir():
        path.unlink()
    assert same(first, load_dataset("flowers102"))
    assert find_source("flowers102").listing().classes == first.classes


def test_flowers_with_train_and_val_share_the_files_and_train_on_both(
    tmp_path: Path, flowers: Callable[..., Path]
) -> None:
    folder = flowers()
    both = load_dataset("flowers102-trainval", data_dir=folder)
    root = tmp_path / "lgkd-home/data/flowers102/images"
    assert both.name == "flowers102-trainval"
    assert both.train.names == (
        "train/class_001/image_00002.jpg",
        "val/class_001/image_00004.jpg",
        "train/class_002/image_00001.jpg",
        "val/class_002/image_00003.jpg",
    )
    assert both.train.labels.tolist() == [0, 0, 1, 1]
    assert both.notes == ()
    for path in folder.iterdir():
        path.unlink()
    one = load_dataset("flowers102")
    assert one.test.names == both.test.names
    assert one.fingerprint != both.fingerprint
    assert set(one.train.names) < set(both.train.names)
    assert sorted(path.name for path in root.parent.iterdir()) == ["images"]
    assert lgkd.check("flowers102-trainval").train.images == 4


def test_a_tree_without_val_is_not_taken_for_train_and_val(tmp_path: Path, flowers: Callable[..., Path]) -> None:
    load_dataset("flowers102", data_dir=flowers())
    root = tmp_path / "lgkd-home/data/flowers102/images"
    (root / "val/class_002").rename(root / "val/class_003")
    text = message(DataError, "flowers102-trainval")
    assert text == f"{root}/val has other classes than train: both are trained on, so they must agree"
    (root / "val").rename(root / "other")
    text = message(MissingError, "flowers102-trainval")
    assert text.startswith("flowers102-trainval is not here; looked for folders train, val and test, 102flowers.tgz, ")
    assert f"{tmp_path}/desk/data/flowers102/val/CLASS/*" in text


def test_the_listing_says_what_each_flowers_set_is_trained_on(capsys) -> None:
    assert run(["datasets"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " 1,020 " in lines["flowers102"] and lines["flowers102"].endswith("trained on train alone")
    assert " 2,040 " in lines["flowers102-trainval"] and lines["flowers102-trainval"].endswith("trained on train + val")
    for name, other in (("flowers102", "flowers102-trainval"), ("flowers102-trainval", "flowers102,")):
        assert run(["datasets", name]) == 0
        assert other in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": (2, 1, 3, 1, 2, 1, 1, 2)}, "imagelabels.mat has labels outside of 1 to 2"),
        ({"labels": np.array([["a", 1]], object)}, "imagelabels.mat has no array of numbers called 'labels'"),
        ({"labels": np.full((1, 8), 1.5)}, "'labels' in "),
        ({"splits": {"valid": (3, 3)}}, "setid.mat does not split the 8 images of "),
        ({"splits": {"valid": (3, 9)}}, "setid.mat does not split the 8 images of "),
        ({"images": 7}, "102flowers.tgz lacks jpg/image_00008.jpg"),
    ],
)
def test_flower_files_that_do_not_fit_together_leave_nothing_behind(
    tmp_path: Path, flowers: Callable[..., Path], change: dict[str, Any], expected: str
) -> None:
    assert expected in message(DataError, "flowers102", data_dir=flowers(**change))
    store = tmp_path / "lgkd-home/data/flowers102"
    assert not store.exists() or list(store.iterdir()) == []


def test_a_broken_matlab_file_is_named(flowers: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flowers()
    (folder / "setid.mat").write_bytes(b"no MATLAB file" * 20)
    files = PUBLISHED["flowers102"]
    monkeypatch.setitem(PUBLISHED, "flowers102", (*files[:2], as_published(folder / "setid.mat")))
    assert f"{folder}/setid.mat cannot be read as a MATLAB file (" in message(DataError, "flowers102", data_dir=folder)


def test_the_catalogue_and_the_published_files_fit_together() -> None:
    assert set(PUBLISHED) <= set(CATALOGUE)
    for files in PUBLISHED.values():
        for file in files:
            assert file.url.startswith("https://")
            assert file.url.endswith(f"/{file.name}")
            assert len(bytes.fromhex(file.sha256)) == 32


def test_every_row_has_a_source_with_the_code_that_the_row_asks_for() -> None:
    for row in ROWS.values():
        source = type(source_of(row.info))
        assert NamedSource in source.__mro__
        assert (source.load is not NamedSource.load) == bool(published(row.info) or row.bundled), row.info.name
        assert (source.layout is not NamedSource.layout) == bool(row.info.lists), row.info.name


def test_no_code_outside_of_the_sources_branches_by_the_name_of_a_data_set() -> None:
    root = Path(lgkd.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if "sources" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in CATALOGUE
    ]
    assert found == []
