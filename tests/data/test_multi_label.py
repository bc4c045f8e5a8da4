"""Tables of images with several labels each: reading, splits, subsets, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lgkd.data.multi_label import Row, is_multi_label, parse_rows, read_table

from lgkd import check
from lgkd.data.folds import fold_of
from lgkd.data.groups import Groups
from lgkd.data.load import find_tree, load_dataset
from lgkd.data.names import Subset
from lgkd.data.subsets import hold_out, select_subset
from lgkd.errors import DataError, InputError
from tests.support.labels import NAMES, draw_labels, make_table, write_rows


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    return make_table(tmp_path / "set", 40)


def test_both_forms_are_the_same_data_set(table: Path) -> None:
    lists, hot = load_dataset(table), load_dataset(table.with_name("hot.csv"))
    assert lists.classes == hot.classes == NAMES
    assert lists.fingerprint == hot.fingerprint and lists.multi_label
    assert lists.name == "labels" and lists.flat
    whole = {**dict(zip(lists.train.names, lists.train.labels.tolist(), strict=True)),
             **dict(zip(lists.test.names, lists.test.labels.tolist(), strict=True))}  # fmt: skip
    expected = draw_labels(40)
    assert whole == {f"images/{place:03}.png": [float(one) for one in row] for place, row in enumerate(expected)}
    assert any("several labels an image" in note for note in lists.notes)


def test_the_order_of_rows_and_classes_of_a_table_changes_nothing(table: Path) -> None:
    rows = [line.split(",") for line in table.with_name("hot.csv").read_text().splitlines()]
    turned = [[row[0], *row[:0:-1]] for row in (rows[0], *rows[:0:-1])]
    assert (
        load_dataset(write_rows(table.with_name("turned.csv"), turned)).fingerprint == load_dataset(table).fingerprint
    )


def test_changed_labels_are_another_data_set_although_the_images_are_cached(table: Path) -> None:
    before = load_dataset(table)
    table.write_text(table.read_text().replace("green", "grass"))
    after = load_dataset(table)
    assert after.classes == ("blue", "grass", "red") and after.fingerprint != before.fingerprint
    assert sorted(after.train.names + after.test.names) == sorted(before.train.names + before.test.names)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["cat;dog, big", "dog, big"], [{"cat", "dog, big"}, {"dog, big"}]),
        (["cat|dog", "cat"], [{"cat", "dog"}, {"cat"}]),
        (["cat, dog", ""], [{"cat", "dog"}, set()]),
        (["traffic light", "cat"], [{"traffic light"}, {"cat"}]),
        ([["cat", "dog"], []], [{"cat", "dog"}, set()]),
    ],
)
def test_lists_are_separated_by_the_first_sign_that_any_has(cells: list[object], expected: list[set[str]]) -> None:
    found = parse_rows(["path", "labels"], [["a.png", cells[0]], ["b.png", cells[1]]], "t.csv")
    assert [set(row.classes) for row in found.rows] == expected
    assert found.classes == tuple(sorted(set().union(*expected)))


def test_rows_hold_split_and_group() -> None:
    found = parse_rows(
        ["file_name", "cat", "dog", "split", "group"],
        [["./x\\a.png", "1", "0.0", "Train", "p1"], ["b.png", "0", "1", "valid", ""]],
        "t.csv",
    )
    assert found.rows == (
        Row("x/a.png", frozenset({"cat"}), "train", "p1"),
        Row("b.png", frozenset({"dog"}), "val", None),
    )


def test_kinds_of_tables_are_told_apart() -> None:
    assert is_multi_label(["path", "labels"]) and is_multi_label(["fname", "tags"])
    assert is_multi_label(["image", "cat", "dog"], ["a.png", "0", "1"])
    assert not is_multi_label(["path", "label"], ["a.png", "1"])
    assert not is_multi_label(["path", "group"], ["a.png", "1"])
    assert not is_multi_label(["path", "label", "width", "height"], ["a.png", "cat", "1", "1"])


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (["name", "labels"], [["a", "b"]], "has no column of paths among name, labels; expected one named path"),
        (["path", "split"], [["a", "train"]], "expected a CSV file with columns path,labels"),
        (["path", "cat", "cat"], [["a", "1", "0"]], "each class once"),
        (["path", "labels"], [["a"]], "t.csv:2 has 1 cells, expected 2"),
        (["path", "labels"], [["", "cat"]], "t.csv:2 has the path '', expected one below the table's folder"),
        (["path", "labels"], [["../a.png", "cat"]], "t.csv:2 has the path '../a.png', expected one below"),
        (["path", "labels"], [["x/../../a.png", "cat"]], "expected one below the table's folder"),
        (["path", "labels"], [["/etc/passwd", "cat"]], "t.csv:2 has the path '/etc/passwd', expected one below"),
        (["path", "labels"], [["C:\\a.png", "cat"]], "expected one below the table's folder"),
        (["path", "labels"], [["a", "cat"], ["./a", "dog"]], "t.csv:3 has the path a of line 2 again"),
        (["path", "cat", "dog"], [["a", "1", "-1"]], "t.csv:2 has '-1' in the column 'dog', expected 0 or 1"),
        (["path", "labels", "split"], [["a", "cat", "later"]], "has the split 'later', expected train, test or val"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(header: list[str], rows: list[list[str]], words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_rows(header, rows, "t.csv")
    assert words in str(caught.value)


def test_files_that_are_no_such_table_are_refused(table: Path) -> None:
    folder = table.parent
    cases = {
        "one.csv": ([("path", "labels"), ("images/000.png", "cat")], "has 1 class; expected at least 2"),
        "empty.csv": ([("path", "labels")], "has 1 row in at most"),
        "single.csv": ([("path", "label"), ("images/000.png", "cat")], "has the columns path, label; expected a CSV"),
        "gone.csv": ([("path", "labels"), ("images/900.png", "a;b")], "of the table cannot be read"),
        "late.csv": (
            [("path", "labels", "split"), ("images/000.png", "a;b", "test")],
            "has no row of the split train (test)",
        ),
    }
    for name, (rows, words) in cases.items():
        with pytest.raises(DataError) as caught:
            load_dataset(write_rows(folder / name, rows))
        assert words in str(caught.value), name
    (folder / "bytes.csv").write_bytes(b"path,labels\n\xff\xfe,a;b\n")
    with pytest.raises(DataError, match="cannot be read as a CSV file in UTF-8"):
        load_dataset(folder / "bytes.csv")
    with pytest.raises(DataError, match="has 1 class that the student does not know: red; expected its classes"):
        read_table(table, known=("blue", "green"))


def test_a_column_of_splits_divides_the_images(table: Path) -> None:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    parts = [*["train"] * 25, *["val"] * 5, *["test"] * 10]
    given = [("path", "labels", "split", "group"), *((*row, part, "g") for row, part in zip(rows, parts, strict=True))]
    found = load_dataset(write_rows(table.with_name("split.csv"), given))
    assert (len(found.train), len(found.test), found.flat) == (25, 10, False)
    assert "not used: the split val of split.csv (5 images)" in found.notes
    assert any("not used: the column group" in note for note in found.notes)
    given = [row if row[2] != "test" else (*row[:2], "train", "") for row in given]
    found = load_dataset(write_rows(table.with_name("split.csv"), given))
    assert (len(found.train), len(found.test)) == (35, 5)
    assert "no split named test: scores are reported on val of split.csv" in found.notes


def test_held_out_parts_have_their_share_of_every_class(table: Path) -> None:
    found = load_dataset(table)
    rest, held = hold_out(found.train, 0.25, 3, classes=found.classes)
    assert sorted((*rest.names, *held.names)) == sorted(found.train.names)
    wanted = found.train.labels.sum(0) * 0.25
    assert bool(((held.labels.sum(0) - wanted).abs() <= 1).all())
    assert hold_out(found.train, 0.25, 3)[1].names == held.names
    assert hold_out(found.train, 0.25, 4)[1].names != held.names
    with pytest.raises(DataError, match="2 images cannot be divided into two parts"):
        hold_out(found.train.take(torch.arange(2)), 0.01)


def test_folds_test_every_image_once(table: Path) -> None:
    found = load_dataset(table)
    parts = [fold_of(found, Subset(folds=4, fold=number)) for number in (1, 2, 3, 4)]
    assert sorted(name for part in parts for name in part.test.names) == sorted(found.train.names + found.test.names)
    counts = torch.stack([part.test.labels.sum(0) for part in parts])
    assert bool((counts.max(0).values - counts.min(0).values <= 2).all())


def test_groups_are_not_divided(table: Path) -> None:
    groups = Groups("name", r"(\d)\.png")
    found = load_dataset(table, groups=groups)
    last = [{name[-5] for name in part.names} for part in (found.train, found.test)]
    assert not last[0] & last[1] and last[1]
    with pytest.raises(DataError, match="images with several labels have no such folder"):
        load_dataset(table, groups=Groups("level", "1"))


def test_a_larger_share_contains_a_smaller_one_and_no_class_is_lost(table: Path) -> None:
    train = load_dataset(table).train
    parts = [set(select_subset(train, Subset(fraction=share)).names) for share in (0.1, 0.3, 0.6)]
    assert parts[0] < parts[1] < parts[2]
    few = select_subset(train, Subset(fraction=0.05))
    assert bool((few.labels.sum(0) > 0).all())
    with pytest.raises(InputError, match="--images-per-class 2 counts images of one class each"):
        select_subset(train, Subset(per_class=2))


def test_a_check_counts_images_of_every_class_and_finds_contradictions(table: Path) -> None:
    rows = table.read_text().splitlines()
    copied = table.parent / "images" / "copy.png"
    copied.write_bytes((table.parent / "images" / "000.png").read_bytes())
    other = "red" if "red" not in rows[1] else "blue"
    table.write_text("\n".join([*rows, f"images/copy.png,{other}"]) + "\n")
    found = check(table)
    counts = {name: found.train.per_class[name] + found.test.per_class[name] for name in NAMES}
    expected = dict(zip(NAMES, draw_labels(40).sum(0).tolist(), strict=True))
    assert counts == {**expected, other: expected[other] + 1}
    assert found.train.images + found.test.images == 41
    copies = found.copies
    assert copies.train_contradictions.count + copies.test_contradictions.count + copies.leaks_of_other_class == 1
    decoded = check(load_dataset(table))
    assert decoded.train == found.train and decoded.test == found.test


def test_images_of_a_split_hold_labels_of_the_right_shape(table: Path) -> None:
    train = load_dataset(table).train
    assert train.label_keys[0] == tuple(train.labels[0].nonzero().flatten().tolist())
    assert train.class_numbers.tolist() == [place for key in train.label_keys for place in key]
    with pytest.raises(DataError, match=r"labels of .* images is torch\.int64"):
        replace(train, labels=train.labels.long())


def test_a_tree_of_a_table_has_its_name(table: Path) -> None:
    name, tree = find_tree(table)
    assert (name, tree.root) == ("labels", table.parent)
    assert tree.label_sets is not None and len(tree.label_sets) == 40
