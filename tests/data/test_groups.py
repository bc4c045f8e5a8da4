"""Images that belong together: how groups are named, and how whole groups are divided."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lgkd.data import grouped_split
from lgkd.data.grouped_split import split_by_groups
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.prepare import prepare_data
from lgkd.data.subsets import hold_out
from lgkd.errors import DataError, InputError
from tests.support.data import distinct, images, made, smears

NAMES = ["train/cat/p1/left/a1.png", "train/dog/p1/right/b2.png", "train/dog/p2/left/c3.png"]
CLASSES = ["cat", "dog", "dog"]


def groups_of(text: str, names: Sequence[str] = NAMES, classes: Sequence[str] = CLASSES) -> list[str]:
    groups = Groups.parse(text)
    assert groups is not None
    return groups.of(names, classes)


def test_groups_are_named_by_a_folder_the_file_or_a_table(tmp_path: Path) -> None:
    assert groups_of("level:1") == ["p1", "p1", "p2"]
    assert groups_of("level:2") == ["left", "right", "left"]
    assert groups_of("level:1", [name.removeprefix("train/") for name in NAMES]) == ["p1", "p1", "p2"]
    assert groups_of(r"name:([a-z])\d") == ["a", "b", "c"]
    table = tmp_path / "patients.csv"
    table.write_text("Path,Group\n" + "\n".join(f"{name},g{place}" for place, name in enumerate(NAMES)) + "\n\n")
    assert groups_of(f"csv:{table}") == ["g0", "g1", "g2"]
    assert Groups.parse(None) is None


def test_a_table_is_named_by_its_name_and_content_and_not_by_its_folders(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("x,1\n")
    groups = Groups.parse("csv:a.csv")
    assert groups is not None and groups.text == f"csv:{tmp_path.resolve()}/a.csv"
    before = groups.name
    assert before.startswith("csv:a.csv@") and len(before) == len("csv:a.csv@") + 8
    Path("a.csv").write_text("x,2\n")
    assert groups.name != before
    about = {"by": before, "table": str(tmp_path / "a.csv")}
    with pytest.raises(InputError, match=r"has changed since the run .*expected the table of the run"):
        Groups.of_run(about)
    assert Groups.of_run({"by": "level:1", "table": None}) == Groups.parse("level:1")
    assert Groups.of_run(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient", r"--groups is 'patient', expected level:N \(a folder below the class\), name:REGEX"),
        ("name:", "--groups is 'name:', expected"),
        ("level:0", "--groups level:0 names no folder; expected its level below the class, from 1"),
        ("level:x", "--groups level:x names no folder"),
        ("name:(", r"--groups name:\( is not a regular expression: "),
        ("name:abc", r"--groups name:abc has no group in parentheses; enclose the part"),
        (
            "csv:/no/such.csv",
            r"--groups /no/such.csv cannot be read \(No such file .*\); expected a CSV file",
        ),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Groups.parse(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a/1.png\n", r"g.csv:1 has no path and group; expected rows like a/1.png,p1"),
        (b"a/1.png,p1\na/1.png,p2\n", "g.csv:2 puts a/1.png into the group p2, an earlier row into p1; keep one"),
        (b"\xff\xfe", "g.csv is not a CSV file in UTF-8 "),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "g.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Groups.parse(f"csv:{tmp_path / 'g.csv'}")


def test_a_table_that_is_too_large_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "g.csv").write_text("a/1.png,p1\n")
    monkeypatch.setattr("lgkd.data.groups._MOST_BYTES", 5)
    with pytest.raises(InputError, match="has over 5 bytes; expected a table of path,group"):
        Groups.parse(f"csv:{tmp_path / 'g.csv'}")


def test_an_image_without_a_group_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"3 of 3 images have no group, as there is no folder at level 3 below the class"
    ):
        groups_of("level:3")
    with pytest.raises(DataError, match=r"1 of 3 images have no group, as the expression .* finds none in its name: "
                                        "train/dog/p2/left/c3.png; expected a group for every image"):  # fmt: skip
        groups_of(r"name:([ab])\d")
    (tmp_path / "g.csv").write_text(f"{NAMES[0]},1\n./{NAMES[1]},2\n")
    with pytest.raises(DataError, match=r"1 of 3 images have no group, as no row of g.csv has its path"):
        groups_of(f"csv:{tmp_path / 'g.csv'}")


# ------------------------------------------------------------------------------------------- dividing


def world(seed: int, count: int = 200, number: int = 17, classes: int = 3) -> tuple[torch.Tensor, list[str]]:
    """Labels and groups of unequal sizes; a group leans to one class, as a patient does."""
    draw = np.random.default_rng(seed)
    group = draw.choice(number, count, p=draw.dirichlet(np.ones(number) * 2))
    labels = (group + (draw.random(count) < 0.5) * draw.integers(0, classes, count)) % classes
    return torch.from_numpy(labels), [f"g{one:02d}" for one in group]


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6, 7])  # in 2, rounding orders equal groups of scikit-learn's
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_equal_parts_are_those_of_scikit_learn(monkeypatch, seed: int, parts: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    # Only the order of groups of equal spread is drawn here; scikit-learn takes them by name.
    monkeypatch.setattr(grouped_split, "permutation", lambda _, count: torch.arange(count))
    labels, groups = world(seed)
    found = split_by_groups(labels, groups, [1 / parts] * parts, 0, classes=["a", "b", "c"])
    folds = StratifiedGroupKFold(parts).split(np.zeros(len(labels)), labels.numpy(), groups)
    for number, (_, held) in enumerate(folds):
        assert (found == number).nonzero().flatten().tolist() == held.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_held_out_part_has_whole_groups_near_its_share_and_leaves_every_class(seed: int) -> None:
    labels, groups = world(seed)
    part = split_by_groups(labels, groups, (0.8, 0.2), seed, classes=["a", "b", "c"], trained_on=0)
    by_group: dict[str, set[int]] = {}
    for group, one in zip(groups, part.tolist(), strict=True):
        by_group.setdefault(group, set()).add(one)
    assert all(len(parts) == 1 for parts in by_group.values())
    assert 0.1 < float((part == 1).double().mean()) < 0.3
    assert torch.equal(part, split_by_groups(labels, groups, (0.8, 0.2), seed, classes=["a", "b", "c"], trained_on=0))
    assert set(labels[part == 0].tolist()) == {0, 1, 2}


def test_the_only_group_of_a_class_stays_in_the_training() -> None:
    labels = torch.tensor([0] * 6 + [1] * 6)
    groups = ["a", "a", "b", "b", "c", "c"] + ["only"] * 6
    for seed in range(6):
        part = split_by_groups(labels, groups, (0.7, 0.3), seed, classes=["x", "y"], trained_on=0)
        assert set(part[6:].tolist()) == {0}
        assert 1 in part[:6]
    with pytest.raises(DataError, match="all images of the class 'y' are in the group 'only'; expected at least two"):
        split_by_groups(labels, groups, (0.5, 0.5), 0, classes=["x", "y"])


def test_a_small_share_still_gets_a_group() -> None:
    labels = torch.tensor([0, 1] * 10)
    part = split_by_groups(labels, ["a"] * 10 + ["b"] * 10, (0.99, 0.01), 0, classes=["x", "y"], trained_on=0)
    assert int((part == 1).sum()) == 10


def test_groups_that_cannot_be_divided_are_refused() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match=r"there are 2 groups \(a, b\), and 3 parts are asked for"):
        split_by_groups(labels, ["a", "a", "b", "b"], [1 / 3] * 3, 0, classes=["x", "y"])
    with pytest.raises(DataError, match=r"there are 1 group \(a\), and 2 parts"):
        split_by_groups(labels, ["a"] * 4, (0.8, 0.2), 0, classes=["x", "y"], trained_on=0)
    # Both groups have a class of their own: none can be held out.
    with pytest.raises(DataError, match=r"the groups \(2 groups \(a, b\)\) leave a part without images"):
        split_by_groups(torch.tensor([0, 0, 1, 1]), ["a", "a", "b", "b"], (0.8, 0.2), 0, classes=["x", "y"],
                        trained_on=0)  # fmt: skip
    # Three classes in two groups each, so that every one of two parts would get a class as a whole.
    odd = torch.tensor([0, 1, 1, 2, 2, 0])
    with pytest.raises(
        DataError, match="cannot be divided so that every part leaves images of all classes to train on"
    ):
        split_by_groups(odd, ["a", "a", "b", "b", "c", "c"], (0.5, 0.5), 0, classes=["x", "y", "z"])


def smears_of(names: Sequence[str]) -> set[str]:
    return {name.rpartition("/")[2].partition("_")[0] for name in names}


def test_a_folder_without_a_test_split_holds_out_whole_groups(tmp_path: Path) -> None:
    root, groups = smears(tmp_path / "cells"), Groups.parse(r"name:(\d+)_")
    data = load_dataset(root, groups=groups)
    assert data.flat and len(data.test) == 8 and len(data.train) == 32
    assert not smears_of(data.test.names) & smears_of(data.train.names)
    assert data.notes[0] == "no test split found: 2 of 10 groups held out, 20 % of the images (seed 0)"
    plain = load_dataset(root)
    assert plain.flat and plain.fingerprint != data.fingerprint
    assert smears_of(plain.test.names) & smears_of(plain.train.names)
    again = load_dataset(root, groups=groups)
    assert again.test.names == data.test.names and again.fingerprint == data.fingerprint


def test_the_held_out_part_of_a_training_has_whole_groups_and_is_reported(tmp_path: Path) -> None:
    root = smears(tmp_path / "cells")
    groups = Groups.parse(r"name:(\d+)_")
    data = prepare_data(root, normalize="imagenet", val_fraction=0.25, groups=groups)
    assert data.val is not None
    parts = [smears_of(part.names) for part in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10
    assert data.notes[-1] == r"held out to choose the epoch: 2 of 8 groups (name:(\d+)_), 8 of 32 images"


def test_a_class_without_a_held_out_image_is_named() -> None:
    train = images(distinct(1, 12), [0] * 8 + [1] * 4, "train")
    data = made(train, images(distinct(2, 2), [0, 1], "test"))
    text = r"name:^(\d)$"  # train/0 to train/9, and train/10 and train/11 have none
    with pytest.raises(DataError, match="2 of 12 images have no group"):
        hold_out(train, 0.2, classes=("a", "b"), groups=Groups.parse(text))
    # The images of b are one group: 8 to 11 begin with 8, 9 and 1, so take two digits apart.
    data_of = prepare_data(data, normalize="imagenet", val_fraction=0.2, groups=Groups.parse(r"name:^([0-7]|8|9|1)"))
    assert data_of.val is not None and 1 in data_of.train.labels
    with pytest.raises(InputError, match="the fraction to hold out is 2"):
        hold_out(train, 2, classes=("a", "b"), groups=Groups.parse(r"name:(\d+)"))


def test_groups_without_anything_to_divide_are_refused(tmp_path: Path) -> None:
    root = smears(smears(tmp_path / "cells", split="train"), split="test")
    with pytest.raises(InputError, match=r"--groups name:\(.*\)_ has nothing to divide: the test split of .* is given"):
        prepare_data(root, normalize="imagenet", groups=Groups.parse(r"name:(\d+)_"))
