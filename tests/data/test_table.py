"""Labels from CSV and Parquet files: the same images as from folders, and what is said of bad tables."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd.data.checks.report import check_dataset_images
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.prepare import prepare_data
from lgkd.data.sources import table
from lgkd.data.sources.source import find_source
from lgkd.deploy.inference.image_files import find_images, reader_of, true_classes
from lgkd.errors import DataError, InputError, MissingError
from tests.support.data import message, noise, save, tree
from tests.support.sources import rows_of, write_table


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "photos", *(f"{split}/{name}" for split in ("train", "test", "val") for name in "ab"), count=3
    )


@pytest.mark.parametrize(
    ("columns", "delimiter", "encoding"),
    [
        (("path", "label", "split"), ",", "utf-8"),
        (("Filename", "Class", "Split"), ";", "utf-8-sig"),
        (("file", "target", "subset"), "\t", "utf-16"),
        (("image", "category", "partition"), "|", "utf-8"),
    ],
)
def test_a_table_gives_the_images_of_the_folder_whatever_its_order_and_dialect(
    photos: Path, columns: tuple[str, ...], delimiter: str, encoding: str
) -> None:
    file = write_table(photos / "labels.csv", rows_of(photos)[::-1], columns, delimiter)
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    ours, theirs = load_dataset(file), load_dataset(photos)
    assert ours.classes == theirs.classes and ours.fingerprint == theirs.fingerprint
    for split in ("train", "test", "val"):
        one, other = getattr(ours, split), getattr(theirs, split)
        assert one.names == other.names and torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
    assert ours.name == "photos-labels" and not ours.flat and ours.notes == ()


def test_the_images_are_those_that_the_rows_name(tmp_path: Path) -> None:
    """Read again by the csv module and Pillow: flat file names, classes that no folder has."""
    for number in range(12):
        save(tmp_path / f"{number:02d}.png", noise(number))
    rows = [
        (f"{number:02d}.png", ("malignant", "benign")[number % 2], "test" if number > 7 else "train")
        for number in range(12)
    ]
    data = load_dataset(write_table(tmp_path / "labels.csv", rows))
    with (tmp_path / "labels.csv").open() as stream:
        wanted = {row["path"]: row for row in csv.DictReader(stream)}
    for split, images in (("train", data.train), ("test", data.test)):
        assert sorted(images.names) == [name for name, row in wanted.items() if row["split"] == split]
        for name, label, pixels in zip(images.names, images.labels.tolist(), images.pixels, strict=True):
            assert data.classes[label] == wanted[name]["label"]
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(Image.open(tmp_path / name)))
    assert data.val is None and data.classes == ("benign", "malignant")


def test_without_splits_a_fifth_is_held_out_as_of_a_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a", "b", count=10)
    rows = [(path.relative_to(root).as_posix(), path.parent.name) for path in root.glob("*/*.png")]
    ours, theirs = load_dataset(write_table(root / "x.csv", rows, ("path", "label"))), load_dataset(root)
    assert ours.flat and ours.test.names == theirs.test.names and ours.fingerprint == theirs.fingerprint
    assert ours.notes == ("no test split found: 20 % of each class held out (seed 0)",)


def test_val_serves_as_the_test_split_where_there_is_none(photos: Path) -> None:
    rows = [row for row in rows_of(photos) if row[2] != "test"]
    data = load_dataset(write_table(photos / "x.csv", rows))
    assert data.val is None and data.test.names[0].startswith("val/")
    assert data.notes == ("no split test: accuracy is reported on val",)


def test_fastais_is_valid_names_the_split_that_serves_as_test(photos: Path) -> None:
    rows = [(path, label, str(split == "val")) for path, label, split in rows_of(photos) if split != "test"]
    data = load_dataset(write_table(photos / "x.csv", rows, ("path", "label", "is_valid")))
    assert len(data.train) == 6 and {name.split("/")[0] for name in data.test.names} == {"val"}


def test_a_corrected_label_is_not_read_from_the_store(photos: Path) -> None:
    rows = [list(row) for row in rows_of(photos)]
    before = load_dataset(write_table(photos / "x.csv", rows))
    rows[0][1] = "b"
    after = load_dataset(write_table(photos / "x.csv", rows))
    fresh = load_dataset(photos / "x.csv", use_cache=False)
    assert after.fingerprint == fresh.fingerprint != before.fingerprint


def test_a_table_and_its_folder_keep_their_decoded_images_side_by_side(photos: Path, monkeypatch) -> None:
    file = write_table(photos / "x.csv", rows_of(photos))
    for source in (photos, file):
        load_dataset(source)
    monkeypatch.setattr("lgkd.data.load.decode", None)
    for source in (photos, file):
        assert len(load_dataset(source).train) == 6


def grouped(root: Path, *, groups: int = 10, each: int = 4) -> Path:
    """`groups` patients with `each` images of one class, of two."""
    rows = []
    for number in range(groups * each):
        save(root / f"{number:03d}.png", noise(number))
        rows.append((f"{number:03d}.png", "ab"[number // each % 2], f"p{number // each}"))
    return write_table(root / "labels.csv", rows, ("path", "label", "patient"))


def patients(file: Path, names: tuple[str, ...]) -> set[str]:
    with file.open() as stream:
        of = {row["path"]: row["patient"] for row in csv.DictReader(stream)}
    return {of[name] for name in names}


def test_a_column_of_groups_is_never_divided_by_what_is_held_out(tmp_path: Path) -> None:
    file = grouped(tmp_path)
    data = prepare_data(file, normalize="imagenet", val_fraction=0.25)
    assert data.val is not None and data.groups is not None and data.groups.name == "column:group"
    parts = [patients(file, images.names) for images in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == 10 and set.union(*parts) == {f"p{number}" for number in range(10)}
    assert "2 of 10 groups held out" in data.notes[0]


def test_groups_of_a_table_are_not_needed_where_nothing_is_divided(tmp_path: Path) -> None:
    file = grouped(tmp_path)
    text = file.read_text().replace("patient", "patient,split").replace("\n000.png,a,p0", "\n000.png,a,p0,test")
    lines = text.splitlines()
    file.write_text(
        "\n".join(
            line if place < 2 else f"{line},{'test' if place % 5 == 0 else 'train'}" for place, line in enumerate(lines)
        )
    )
    data = prepare_data(file, normalize="imagenet")
    assert data.groups is None and not data.flat


def test_levels_are_no_groups_of_a_table(tmp_path: Path) -> None:
    file = grouped(tmp_path)
    with pytest.raises(DataError, match=r"counts folders below the folder of a class.*take name:REGEX"):
        load_dataset(file, groups=Groups.parse("level:1"))
    with pytest.raises(DataError, match="have no group, as the data set has no column group"):
        load_dataset(tree(tmp_path / "flat", "a", "b", count=5), groups=Groups.parse("column:group"))


BAD = {
    "path,label\na/0.png,x\na/9.png,x\na/8.png,y": "2 of 3 files of .* are not there: a/9.png, a/8.png;",
    "path,label\na/0.png,x\na/0.png,x\na/1.png,y": "names files twice: a/0.png in the rows 2 and 3; keep one",
    "path,label\na/0.png,x\n./a/0.png,y\na/1.png,y": "twice: a/0.png in the rows 2 and 3, as x and as y",
    "path,label,split\na/0.png,x,train\na//0.png,x,test\na/1.png,y,train": "2 and 3, in train and in test; keep",
    "path,label\na/0.png,x\na/1.png,": r"1 of 2 rows of .* have no label \(column label\): rows 3; fill",
    "path,label\n,x\na/1.png,y": r"1 of 2 rows of .* have no path \(column path\): rows 2; fill",
    "path,label,split\na/0.png,x,\na/1.png,y,train": r"1 of 2 rows of .* have no split \(column split\): rows 2",
    "path,label,split\na/0.png,x,trian\n": ":2 has the split 'trian'; expected one of train, training, test",
    "path,label,spilt\na/0.png,x,train\n": "has a column 'spilt', which is not known; did you mean 'split'",
    "path,label,groop\na/0.png,x,train\n": "has a column 'groop', which is not known; did you mean 'group'",
    "path,label,label\na/0.png,x,y\n": "has two columns 'label'; expected different names",
    "file,image,label\na/0.png,x,y\n": "has several columns for the path: file, image; expected one, call it path",
    "path,label,patient,subject\na/0.png,x,y,z\n": "several columns for the group: patient, subject; expected one",
    "path,label,group\na/0.png,x,p\na/1.png,y,\n": "1 of 2 rows of .* have no group: a/1.png; fill the column",
    "a/0.png,cat\na/1.png,dog\n": "has the columns a/0.png, cat; expected one of paths",
    "path;id\na/0.png;cat\n": "has the columns path, id; expected one of paths",
    "": "has the columns none; expected",
    "path,label\na/0.png,x,y\n": ":2 has more cells than the 2 columns; enclose cells that contain ','",
    'path,label\na/0.png,"x"y\n': "is not a CSV file .*save it as one",
    "path,label\n../d.png,x\n": r":2 names '../d.png', which is outside of .*move the table to a folder above",
    "path,label\na/../../d.png,x\n": "which is outside",
    "path,label\n/etc/passwd,x\n": "names '/etc/passwd', which is outside",
    "path,label\nC:\\x.png,x\n": "which is outside",
    "path,label\n..\\d.png,x\n": "which is outside",
    "path,label\na,x\na/0.png,y\n": "1 of 2 files of .* are not there: a;",
    "path,label\na/0.png,x\na/1.png,x\n": "has one class only, 'x': at least two are needed",
    "path,label,split\na/0.png,x,test\na/1.png,x,test\n": r"has no training images \(2 in test\); expected rows with",
    "path,label\n": r"has no training images \(no rows\)",
    "path,label,split\na/0.png,x,train\nb/1.png,y,train\na/1.png,z,test\n": "has 1 class in test that train lacks: z",
    "path,label,split\na/0.png,x,train\nb/1.png,y,train\na/1.png,x,test\nb/0.png,z,val": "has 1 class in val that",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "labels.csv").write_text(text)
    said = message(DataError, tmp_path / "labels.csv")
    assert re.search(BAD[text], said), said


def test_absolute_paths_below_the_folder_and_backslashes_are_read(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a", "b")
    (root / "x.csv").write_text(f"path,label\n{root}/a/0.png,x\na\\1.png,x\nb/0.png,y\nb/1.png,y\n")
    data = load_dataset(root / "x.csv")
    assert sorted(data.train.names + data.test.names) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


def test_other_columns_are_named_and_not_used(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "x.csv").write_text("path,label,age\na/0.png,x,1\na/1.png,x,2\nb/0.png,y,3\nb/1.png,y,4\n")
    assert f"not used: the columns age of {tmp_path / 'x.csv'}" in load_dataset(tmp_path / "x.csv").notes


def test_tables_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_bytes("path,label\nä.png,x".encode("latin-1"))
    assert "is not text in UTF-8 (byte 11 is b'\\xe4'); save it as CSV UTF-8" in message(DataError, tmp_path / "x.csv")
    monkeypatch.setattr(table, "_MOST_BYTES", 5)
    assert "has over 5 bytes" in message(DataError, tmp_path / "x.csv")
    assert "there is no table" in message(DataError, str(tmp_path / "y.csv"))
    source = find_source(tmp_path / "x.csv")
    (tmp_path / "x.csv").unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file.*expected a table"):
        source.listing()


def test_a_table_can_be_checked_whole(photos: Path) -> None:
    """All faults are listed, and the rest is looked at; val has copies of train and of test."""
    rows = rows_of(photos)
    (photos / "val/a/0.png").write_bytes((photos / "train/a/0.png").read_bytes())
    (photos / "val/b/0.png").write_bytes((photos / "test/b/0.png").read_bytes())
    (photos / "train/b/1.png").write_bytes(b"no image")
    file = write_table(photos / "x.csv", [*rows, ("gone.png", "a", "train"), rows[0]])
    report = check_dataset_images(file)
    assert (report.train.images, report.test.images) == (5, 6)
    assert report.val is not None and report.val.per_class == {"a": 3, "b": 3}
    assert (
        report.folder == str(file) and report.unused == () and [one.name for one in report.broken] == ["train/b/1.png"]
    )
    assert len(report.problems) == 3
    remarks = " ".join(report.remarks)
    assert "1 of 6 images of val is in train too, pixel for pixel, " in remarks
    assert "1 of 6 images of val is in test too" in remarks and "no longer independent" in remarks
    folder = check_dataset_images(
        load_dataset(write_table(photos / "y.csv", [r for r in rows if r[0] != "train/b/1.png"]))
    )
    assert folder.val == report.val and any("in train too" in remark for remark in folder.remarks)


def test_parquet_is_read_as_csv_is(photos: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = rows_of(photos)
    names = {name: place for place, name in enumerate("ab")}
    columns = {
        "image_path": [path for path, _, _ in rows],
        "label": [float(names[label]) for _, label, _ in rows],
        "split": [split for _, _, split in rows],
        "age": [1] * len(rows),
    }
    parquet.write_table(pyarrow.table(columns), photos / "x.parquet")
    ours, theirs = load_dataset(photos / "x.parquet"), load_dataset(photos)
    assert ours.classes == ("0", "1") and ours.train.names == theirs.train.names
    assert torch.equal(ours.train.pixels, theirs.train.pixels)
    assert any("not used: the columns age" in note for note in ours.notes)
    columns["label"][0] = None
    parquet.write_table(pyarrow.table(columns), photos / "x.parquet")
    assert "rows 1; fill them" in message(DataError, photos / "x.parquet")
    for bad, words in (
        ({"path": ["a"], "y": [1]}, "has the columns path, y; expected one of paths"),
        ({"image": [{"bytes": b"x"}], "label": [1]}, "has a column image of images or lists, expected paths"),
    ):
        parquet.write_table(pyarrow.table(bad), photos / "x.parquet")
        assert words in message(DataError, photos / "x.parquet")
    (photos / "x.parquet").write_bytes(b"PAR1 no")
    assert "cannot be read as Parquet" in message(DataError, photos / "x.parquet")


def test_parquet_needs_its_package(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'lgkd[parquet]'" in message(MissingError, photos / "x.parquet")


def test_a_name_that_is_no_data_set_says_which_forms_there_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"is a file: .* or a folder: .*, or a table .csv, .tsv or .parquet"):
        find_source(str(tmp_path / "notes.txt"))


def test_the_images_to_score_are_those_of_the_test_split_else_all(photos: Path) -> None:
    rows = rows_of(photos)
    listing, split = find_source(write_table(photos / "x.csv", rows)).labelled(("b", "a"))
    assert split == "test" and listing.train == () and listing.classes == ("b", "a")
    assert {(file.path.split("/")[1], file.label) for file in listing.test or ()} == {("a", 1), ("b", 0)}
    assert listing.notes == ("not used: train, val, beside test",)
    alone, split = find_source(write_table(photos / "y.csv", rows, ("path", "label", "of"))).labelled(("a", "b", "c"))
    assert split == "" and len(alone.test or ()) == len(rows)
    with pytest.raises(DataError, match="has 1 class that the student does not know: b; expected labels that are its"):
        find_source(photos / "x.csv").labelled(("a", "c"))
    with pytest.raises(DataError, match="has no images; expected rows of labelled images"):
        find_source(write_table(photos / "z.csv", [])).labelled(("a", "c"))


def test_images_of_a_table_are_found_for_a_prediction_with_their_classes(photos: Path) -> None:
    rows = [*rows_of(photos), ("gone.png", "a", "train")]
    file, told = write_table(photos / "x.csv", rows), list[str]()
    files = find_images([file], fault=told.append)
    assert files == [photos / path for path, _, _ in rows[:-1]] and "gone.png" in told[0]
    assert true_classes([file], files, ("a", "b"), say=told.append) == [label for _, label, _ in rows[:-1]]
    assert true_classes([file], files, ("a",), say=told.append) == [None] * len(files)
    assert "is not taken as labelled: the student has no class b; change or remove these rows" in told[-1]
    assert reader_of([file]) is None
