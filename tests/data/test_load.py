"""Named data sets: where they are looked for, what the catalogue says of them, and digits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lgkd.data.catalogue import CATALOGUE, DataSetInfo
from lgkd.data.load import load_dataset
from lgkd.errors import DataError, MissingError
from tests import CHECKOUT
from tests.support.data import message, tree, two_splits


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def small_set(monkeypatch: pytest.MonkeyPatch, classes: int = 2) -> None:
    info = DataSetInfo("cifar10", "two classes of noise", classes, train=4, test=4, image_size=5, source="here")
    monkeypatch.setitem(CATALOGUE, "cifar10", info)


def test_a_named_set_is_looked_for_in_the_working_folder_then_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(monkeypatch)
    in_store = two_splits(tmp_path / "home/data/cifar10")
    assert load_dataset("cifar10").name == "cifar10"
    here = tree(two_splits(tmp_path / "work/data/cifar10"), "train/a", count=3)
    data = load_dataset("cifar10")
    assert len(data.train) == 5
    assert data.notes == ("5 training images found, cifar10 was published with 4",)
    for given in (in_store, in_store.parent, str(in_store)):
        assert len(load_dataset("cifar10", data_dir=given).train) == 4
    assert here.is_dir()


def test_an_absent_named_set_lists_every_place_and_the_layout(tmp_path: Path) -> None:
    text = message(MissingError, "cifar100")
    work, store = tmp_path / "work/data/cifar100", tmp_path / "home/data/cifar100"
    assert text == (
        f"cifar100 is not here; looked for folders train and test, cifar-100-binary.tar.gz in: {work}, {work.parent}, "
        f"{store}; put its images at {work}/train/CLASS/* and {work}/test/CLASS/*, "
        f"or get https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz and put it in {store}, "
        f"or let lgkd download it: without --offline, and LGKD_OFFLINE not set"
    )
    text = message(MissingError, "cifar100", data_dir=tmp_path / "x")
    assert f"in: {tmp_path}/x/cifar100, {tmp_path}/x, {store}; put" in text
    assert text.endswith(f"or correct the folder: {tmp_path}/x does not exist")


def test_a_named_set_with_other_classes_is_refused(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "cifar100")
    assert message(DataError, "cifar100", data_dir=tmp_path) == (
        f"{root} has 2 classes, cifar100 has 100: it is another data set, or a part of this one is missing"
    )


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, lgkd.data.catalogue as c; assert 'torch' not in sys.modules; print(*c.CATALOGUE)"
    root = CHECKOUT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == [
        "digits",
        "cifar10",
        "cifar100",
        "flowers102",
        "flowers102-trainval",
        "tiny-imagenet",
        "chaoyang",
    ]


def test_digits_are_as_the_catalogue_says_and_as_scikit_learn_has_them() -> None:
    from sklearn.datasets import load_digits

    data, info = load_dataset("digits"), CATALOGUE["digits"]
    assert (len(data.classes), len(data.train), len(data.test)) == (info.classes, info.train, info.test)
    raw = load_digits()
    seen = set()
    for images in (data.train, data.test):
        for place in range(0, len(images), 7):
            number = int(images.names[place].rsplit("/", 1)[1])
            seen.add(number)
            assert int(images.labels[place]) == raw.target[number]
            for channel in range(3):
                back = images.pixels[place, channel].double().numpy() * 16 / 255
                assert np.abs(back - raw.images[number]).max() < 0.05
    assert int(data.train.pixels.max()) == 255
    assert not set(data.train.names) & set(data.test.names)
    for count, whole in zip(data.test.labels.bincount(), np.bincount(raw.target), strict=True):
        assert abs(int(count) - whole / 3) <= 0.5
    assert data.fingerprint == load_dataset("digits").fingerprint
