"""Folds: equal parts of every class, each tested on once, and images that belong together in one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgkd.data.folds import fold_of, fold_places
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.prepare import prepare_data
from lgkd.errors import DataError
from tests.support.data import distinct, images, made, tree, two_splits

CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
def test_folds_are_equal_parts_of_every_class_by_one_image(folds: int) -> None:
    labels = torch.tensor([0] * 23 + [1] * 4 + [2] * 11)[torch.randperm(38, generator=torch.Generator().manual_seed(0))]
    part = fold_places(labels, folds, 0, CLASSES)
    for chosen in (labels >= 0, labels == 0, labels == 1, labels == 2):
        counts = torch.bincount(part[chosen], minlength=folds)
        assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(part, fold_places(labels, folds, 0, CLASSES))
    assert not torch.equal(part, fold_places(labels, folds, 1, CLASSES))


def test_every_image_is_tested_on_once_and_a_split_of_its_own_never() -> None:
    train, test = images(distinct(1, 20), [0, 1] * 10, "train"), images(distinct(2, 6), [0, 1] * 3, "test")
    data = made(train, test)
    folds = [fold_of(data, part) for part in Subset(folds=4).each_fold]
    assert sorted(name for one in folds for name in one.test.names) == sorted(train.names)
    for number, one in enumerate(folds, 1):
        assert sorted([*one.train.names, *one.test.names]) == sorted(train.names)
        # 20 images, 10 of a class
        assert (
            one.notes[-1]
            == f"fold {number} of 4: tested on 5 of 20 images; the 6 images of the test split are not used"
        )
        place = {name: at for at, name in enumerate(train.names)}
        for part in (one.train, one.test):
            assert torch.equal(part.pixels, train.pixels[[place[name] for name in part.names]])
    assert len({one.fingerprint for one in folds} | {data.fingerprint}) == 5
    flat = replace(data, flat=True, notes=("no test split found: 20 %", "x"))
    pooled = [fold_of(flat, part) for part in Subset(folds=4).each_fold]
    assert sorted(name for one in pooled for name in one.test.names) == sorted([*train.names, *test.names])
    assert pooled[0].notes == ("x", "fold 1 of 4: tested on 7 of 26 images")


def test_a_flat_folder_is_divided_as_a_whole_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    root = tree(tmp_path / "photos", "a", "b", count=6)
    whole = load_dataset(root)
    parts = [prepare_data(root, normalize="imagenet", subset=part) for part in Subset(folds=3).each_fold]
    assert sorted(name for part in parts for name in part.test.names) == sorted([*whole.train.names, *whole.test.names])
    assert {part.fingerprint for part in parts} == {whole.fingerprint}
    assert [part.subset for part in parts] == [f"fold {number} of 3, seed 0" for number in (1, 2, 3)]
    few = prepare_data(root, normalize="imagenet", subset=Subset(per_class=2, folds=3, fold=1))
    assert few.test.names == parts[0].test.names and set(few.train.names) < set(parts[0].train.names)
    held = prepare_data(root, normalize="imagenet", subset=Subset(folds=3, fold=1), val_fraction=0.25)
    assert held.val is not None and {*held.val.names, *held.train.names} == {*parts[0].train.names}


def test_groups_are_not_divided_by_folds_nor_by_what_is_held_out_of_the_rest(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "photos")
    for part in ("train/a", "train/b"):
        for number in range(12):
            (root / part / f"p{number // 2}_{number}.png").write_bytes((root / part / "0.png").read_bytes())
        for number in range(2):
            (root / part / f"{number}.png").unlink()
    groups = Groups.parse(r"name:^(p\d)")
    for part in Subset(folds=3, groups=r"name:^(p\d)").each_fold:
        data = prepare_data(root, normalize="imagenet", subset=part, groups=groups, val_fraction=0.25)
        assert data.val is not None
        of = [{name.rpartition("/")[2][:2] for name in split.names} for split in (data.train, data.val, data.test)]
        assert [len(one) for one in of] == [3, 1, 2] and len(set.union(*of)) == 6


def test_what_cannot_be_divided_into_folds_is_refused() -> None:
    with pytest.raises(DataError, match=r"the class .b. has 1 image, .*expected at least 2 for folds"):
        fold_places(torch.tensor([0, 0, 0, 1]), 2, 0, CLASSES)
    with pytest.raises(DataError, match="4 images cannot be divided into 5 folds; expected an image for each"):
        fold_places(torch.tensor([0, 0, 1, 1]), 5, 0, CLASSES)
