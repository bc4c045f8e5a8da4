"""Tables of images with several labels each: reading, splits, subsets, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgkd import check
from lgkd.data.folds import fold_of
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.prepare import prepare_data
from lgkd.data.sources.label_sets import is_multi_label, read_labels
from lgkd.data.sources.source import find_source
from lgkd.data.subsets import hold_out, select_subset
from lgkd.errors import DataError, InputError
from lgkd.tuning.request import SweepRequest
from tests.support.labels import NAMES, draw_labels, make_table, write_rows


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    return make_table(tmp_path / "set", 40)


def test_both_forms_are_the_same_data_set(table: Path) -> None:
    lists, hot = load_dataset(table), load_dataset(table.with_name("hot.csv"))
    assert lists.classes == hot.classes == NAMES
    assert lists.fingerprint == hot.fingerprint and lists.multi_label
    assert lists.name == "set-labels" and lists.flat
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
    rows = [["a.png", cells[0]], ["b.png", cells[1]]]
    read = read_labels(["path", "labels"], ["labels"], rows, "t.csv")
    assert [read(number, row) for number, row in enumerate(rows, 2)] == [tuple(sorted(names)) for names in expected]


def test_rows_hold_split_and_group(table: Path) -> None:
    text = "file_name,cat,dog,Split,patient\n.\\images\\000.png,1,0.0,Train,p1\nimages/001.png,0,1,valid,p2\n"
    (table.parent / "x.csv").write_text(text)
    found = find_source(table.parent / "x.csv").rows(pytest.fail)
    assert found is not None and found.classes == ("cat", "dog")
    assert [(row.path, row.label, row.classes, row.role, row.group) for row in found.rows] == [
        ("images/000.png", "", ("cat",), "train", "p1"),
        ("images/001.png", "", ("dog",), "val", "p2"),
    ]


def test_kinds_of_tables_are_told_apart() -> None:
    assert is_multi_label(["path", "labels"]) and is_multi_label(["fname", "tags"])
    assert is_multi_label(["image", "cat", "dog"], ["a.png", "0", "1"])
    assert not is_multi_label(["path", "label"], ["a.png", "1"])
    assert not is_multi_label(["path", "class", "flipped", "dark"], ["a.png", "cat", "0", "1"])
    assert not is_multi_label(["path", "label", "labels"], ["a.png", "cat", "0"])
    assert not is_multi_label(["path", "cat", "is_valid"], ["a.png", "0", "1"])
    assert not is_multi_label(["path", "group"], ["a.png", "1"])
    assert not is_multi_label(["path", "label", "width", "height"], ["a.png", "cat", "1", "1"])


BAD = {
    "name,labels\nimages/000.png,b": "has the columns name, labels; expected one of paths",
    "path,split\nimages/000.png,train": "or of 0 and 1 for every class, in the first row",
    "path,cat,dog\nimages/000.png,yes,no": "has the columns path, cat, dog; expected one of paths",
    "path,cat,dog,cat\nimages/000.png,1,0,1": "has two columns 'cat'; expected different names",
    "path,labels,tags\nimages/000.png,a,b": "has several columns of lists of labels: labels, tags; expected one",
    "path,labels\nimages/000.png": ":2 has 1 cell, expected 2 as in the header; mend the row",
    "path,labels\n,cat\nimages/000.png,a;b": r"1 of 2 rows of .* have no path \(column path\): rows 2; fill",
    "path,labels\n../a.png,a;b": ":2 names '../a.png', which is outside of",
    "path,labels\n/etc/passwd,a;b": "names '/etc/passwd', which is outside",
    "path,labels\nimages/000.png,cat\n./images/000.png,\n": "twice: images/000.png in the rows 2 and 3, as cat and",
    "path,cat,dog\nimages/000.png,1,0\nimages/001.png,1,-1": ":3 has '-1' in the column 'dog', expected 0 or 1",
    "path,labels,split\nimages/000.png,a;b,later": "has the split 'later'; expected one of train",
    "path,labels,spilt\nimages/000.png,a;b,train": "has a column 'spilt', which is not known; did you mean 'split'",
    "path,labels\nimages/000.png,cat": "has one class only, 'cat': at least two are needed",
    "path,labels": r"has no training images \(no rows\)",
    "path,labels\nimages/900.png,a;b": "1 of 1 files of .* are not there: images/900.png",
    "path,labels,split\nimages/000.png,a;b,test": r"has no training images \(1 in test\)",
    "path,labels,group\nimages/000.png,a;b,p\nimages/001.png,a,": "1 of 2 rows of .* have no group",
}


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_table_is_refused(table: Path, text: str) -> None:
    (table.parent / "bad.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(table.parent / "bad.csv")
    assert re.search(BAD[text], str(caught.value)), str(caught.value)


def test_labels_that_a_student_does_not_know_are_refused(table: Path) -> None:
    for name in ("labels.csv", "hot.csv"):
        with pytest.raises(DataError, match="has 1 class that the student does not know: red; expected labels that"):
            find_source(table.with_name(name)).labelled(("blue", "green"))


def test_a_column_of_splits_divides_the_images(table: Path) -> None:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    parts = [*["train"] * 25, *["val"] * 5, *["test"] * 10]
    given = [("path", "labels", "split"), *((*row, part) for row, part in zip(rows, parts, strict=True))]
    file = write_rows(table.with_name("split.csv"), given)
    found = load_dataset(file)
    assert found.val is not None and (len(found.train), len(found.val), len(found.test)) == (25, 5, 10)
    assert not found.flat and found.val.multi_label
    expected = draw_labels(40)[25:30].astype(float).tolist()
    assert found.val.labels.tolist() == expected
    report, decoded = check(file), check(found)
    assert report.val is not None and report.val == decoded.val and report.val.images == 5
    listing, split = find_source(file).labelled(("blue", "green", "red"))
    assert split == "test" and len(listing.test or ()) == 10
    given = [row if row[2] != "test" else (*row[:2], "train") for row in given]
    found = load_dataset(write_rows(table.with_name("split.csv"), given))
    assert (len(found.train), len(found.test), found.val) == (35, 5, None)
    assert "no split test: accuracy is reported on val" in found.notes


def test_a_column_of_groups_is_never_divided(table: Path) -> None:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    given = [("path", "labels", "group"), *((*row, f"p{place // 4}") for place, row in enumerate(rows))]
    data = prepare_data(write_rows(table.with_name("groups.csv"), given), normalize="imagenet", val_fraction=0.25)
    of = {row[0]: row[2] for row in given}
    assert data.val is not None and data.multi_label
    parts = [{of[name] for name in images.names} for images in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == 10 and set.union(*parts) == {f"p{number}" for number in range(10)}


def test_other_delimiters_and_files_are_read_alike(table: Path) -> None:
    hot = table.with_name("hot.csv").read_text()
    (table.parent / "hot.tsv").write_text(hot.replace(",", "\t"))
    (table.parent / "semi.csv").write_text(hot.replace(",", ";"), encoding="utf-16")
    for name in ("hot.tsv", "semi.csv"):
        assert load_dataset(table.parent / name).fingerprint == load_dataset(table).fingerprint


def test_parquet_is_read_as_csv_is(table: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    labels = draw_labels(40)
    paths = [f"images/{place:03}.png" for place in range(40)]
    lists = [[name for name, one in zip(NAMES, row, strict=True) if one] for row in labels]
    hot = {name: labels[:, place] for place, name in enumerate(NAMES)}
    for name, columns in (("lists", {"path": paths, "labels": lists}), ("hot", {"path": paths, **hot})):
        file = table.with_name(f"{name}.parquet")
        parquet.write_table(pyarrow.table(columns), file)
        assert load_dataset(file).fingerprint == load_dataset(table).fingerprint


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


def test_a_listing_of_a_table_has_label_sets(table: Path) -> None:
    source = find_source(table)
    listing = source.listing()
    assert (source.name, listing.root) == ("set-labels", table.parent)
    assert listing.label_sets is not None and len(listing.label_sets) == 40


def test_a_sweep_is_judged_by_the_metric_of_its_labels(table: Path) -> None:
    single = write_rows(table.with_name("one.csv"), [("path", "label"), ("images/000.png", "a")])
    cases: list[tuple[Path, dict[str, str]]] = [(table, {}), (single, {}), (table, {"select_by": "micro_f1"})]
    judge: Any = SweepRequest.metric.fget
    found = [judge(SimpleNamespace(dataset=file, options=options)) for file, options in cases]
    assert found == ["map", "top1", "micro_f1"]
