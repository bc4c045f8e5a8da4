"""Data sets of Hugging Face's `datasets`: folders of save_to_disk, and names of the hub without a network."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.data.checks.report import check_dataset_images
from lgkd.data.load import load_dataset
from lgkd.data.names import dataset_key, place_of, source_at
from lgkd.data.sources.source import RecordedText, find_source
from lgkd.errors import DataError, InputError, MissingError
from tests.support.data import message, tree
from tests.support.sources import save_hugging_face

NAME = "hf:someone/leaves"


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tree(
        tmp_path / "photos", *(f"{split}/{name}" for split in ("train", "test", "val") for name in "ab"), count=3
    )


def test_a_folder_of_save_to_disk_gives_the_images_of_the_folder(photos: Path, tmp_path: Path) -> None:
    ours, theirs = load_dataset(save_hugging_face(photos, tmp_path / "hf", "ba")), load_dataset(photos)
    assert ours.classes == theirs.classes and ours.fingerprint == theirs.fingerprint and ours.name == "hf"
    assert ours.val is not None and theirs.val is not None
    for one, other in zip((ours.train, ours.test, ours.val), (theirs.train, theirs.test, theirs.val), strict=True):
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)
    report = check_dataset_images(tmp_path / "hf")
    assert report.problems == () and report.val is not None and report.val.images == 6


def saved(datasets: Any, out: Path, columns: dict[str, Any], **types: Any) -> Path:
    features = {**{name: datasets.Value("string") for name in columns}, **types}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(str(out))
    return out


def test_a_data_set_without_splits_is_held_out_by_its_groups(datasets: Any, photos: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(photos.glob("*/*/*.png"))]
    out = saved(
        datasets, tmp_path / "hf",
        {"image": files, "label": [path.split("/")[-2] for path in files],
         "patient": [f"p{place // 2}" for place in range(len(files))]},
        image=datasets.Image(),
    )  # fmt: skip
    data = load_dataset(out)
    assert data.flat and data.classes == ("a", "b") and data.groups is not None
    groups = [{data.groups.table[name] for name in part.names} for part in (data.train, data.test)]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 9
    assert find_source(out).group_column() == "patient"


def test_columns_that_do_not_fit_are_named(datasets: Any, photos: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(photos.glob("train/*/*.png"))]
    image, labels = datasets.Image(), datasets.ClassLabel(names=["a", "b"])
    number = ["a", "b"] * 3
    no_image = saved(datasets, tmp_path / "1", {"text": files, "label": number}, label=labels)
    said = message(DataError, no_image)
    assert "has the columns text (string), label (ClassLabel); expected one of the type Image" in said
    two = saved(datasets, tmp_path / "2", {"image": files, "fine": number, "coarse": number}, image=image, fine=labels,
                coarse=labels)  # fmt: skip
    assert "fine (ClassLabel), coarse (ClassLabel); expected one of the type ClassLabel" in message(DataError, two)
    none = saved(datasets, tmp_path / "3", {"image": files, "text": number}, image=image)
    assert "expected one of the type ClassLabel, or of text named label" in message(DataError, none)
    gap = saved(datasets, tmp_path / "4", {"image": files, "label": [0, 1, -1, 0, 1, 0]}, image=image, label=labels)
    assert "1 image of the split train of" in message(DataError, gap) and "has no label: rows 2" in message(
        DataError, gap
    )


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_column_of_lists_gives_several_labels_an_image(
    datasets: Any, photos: Path, tmp_path: Path, kind: str
) -> None:
    names = ["leaf", "bark", "moss"]
    lists = [["leaf"], [], ["moss", "leaf"], ["bark"], ["leaf", "bark", "moss"], ["bark"]]
    of = datasets.ClassLabel(names=names) if kind == "numbers" else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "tags": datasets.Sequence(of)})
    cells = [[names.index(one) for one in some] for some in lists] if kind == "numbers" else lists
    parts = {}
    for name, labels in (("train", cells), ("test", [cells[4]] * 6), ("val", [[]] * 6)):
        files = [str(path) for path in sorted(photos.glob(f"{name}/*/*.png"))]
        parts[name] = datasets.Dataset.from_dict({"image": files, "tags": labels}, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "hf"))
    assert find_source(tmp_path / "hf").multi_label()
    data = load_dataset(tmp_path / "hf")
    assert data.classes == ("bark", "leaf", "moss") and data.multi_label and data.val is None
    # In the order of the paths, which is that of the rows.
    assert data.train.labels.tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert data.test.labels.tolist() == [[1, 1, 1]] * 6
    assert any("the split val of" in note and "has no labels" in note for note in data.notes)


def test_several_columns_of_lists_are_refused(datasets: Any, photos: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(photos.glob("train/*/*.png"))]
    of = datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))
    out = saved(datasets, tmp_path / "hf", {"image": files, "fine": [[0]] * 6, "coarse": [[1]] * 6},
                image=datasets.Image(), fine=of, coarse=of)  # fmt: skip
    assert "expected one list of labels, remove the others by remove_columns" in message(DataError, out)


def test_every_split_has_its_own_numbers_of_the_classes(datasets: Any, photos: Path, tmp_path: Path) -> None:
    parts = {}
    for name, order in (("train", "ab"), ("test", "ba")):
        files = [str(path) for path in sorted(photos.glob(f"{name}/*/*.png"))]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(order))})
        columns = {"image": files, "label": [path.split("/")[-2] for path in files]}
        parts[name] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "hf"))
    data = load_dataset(tmp_path / "hf")
    assert data.classes == ("a", "b") and data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.test.pixels, load_dataset(photos).test.pixels)


def test_splits_of_other_names_or_without_labels_are_not_used(datasets: Any, photos: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(photos.glob("train/*/*.png"))]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    parts = {
        name: datasets.Dataset.from_dict({"img": files, "label": labels}, features=features)
        for name, labels in (("train", [0, 0, 0, 1, 1, 1]), ("test", [-1] * 6), ("extra", [0] * 6))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "hf"))
    data = load_dataset(tmp_path / "hf")
    assert data.flat and len(data.train) + len(data.test) == 6
    assert any("the split test of" in note and "has no labels" in note for note in data.notes)
    assert any("the split extra of" in note and "neither train, test nor val" in note for note in data.notes)


def test_a_file_elsewhere_is_not_read_for_a_data_set(datasets: Any, photos: Path, tmp_path: Path) -> None:
    """A data set of a stranger could name any file; without its bytes an image must be in the folder."""
    pyarrow = pytest.importorskip("pyarrow")
    out = save_hugging_face(photos, tmp_path / "hf", "ab")
    (file,) = (out / "train").glob("*.arrow")
    with pyarrow.memory_map(str(file)) as stream:
        table = pyarrow.ipc.open_stream(stream).read_all()
    rows = table.to_pylist()
    secret = photos / "train/a/0.png"
    rows[0]["image"] = {"bytes": None, "path": str(secret)}
    rows[1]["image"] = {"bytes": None, "path": None}
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema))
    said = message(DataError, out)
    assert "train/0000000 (it is a file outside of the data set; save it with its images by save_to_disk)" in said
    assert "train/0000001 (the row has no image)" in said


def test_a_damaged_folder_is_refused(datasets: Any, photos: Path, tmp_path: Path) -> None:
    out = save_hugging_face(photos, tmp_path / "hf", "ab")
    (out / "train/dataset_info.json").write_text("{")
    assert "cannot be read as a folder of datasets' save_to_disk (" in message(DataError, out)


def test_a_name_of_the_hub_is_loaded_by_the_library(
    datasets: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token and without code; from the folder that stands for the hub here."""
    asked = []
    here = datasets.load_from_disk(str(save_hugging_face(photos, tmp_path / "hf", "ab")))

    def load(name: str, config: str | None, **options: Any) -> Any:
        asked.append((name, config, options, datasets.config.HF_HUB_OFFLINE, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS))
        return here

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("LGKD_OFFLINE", raising=False)
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    data = load_dataset(f"{NAME}:small")
    assert data.fingerprint == load_dataset(photos).fingerprint and data.name == "someone-leaves"
    load_dataset(RecordedText(NAME))
    assert asked == [
        ("hf://datasets/someone/leaves", "small", {"token": False}, False, False),
        ("hf://datasets/someone/leaves", None, {"token": False}, True, False),
    ]
    assert not datasets.config.HF_HUB_OFFLINE and counts == datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


def test_offline_opens_no_connection_for_a_name_of_the_hub(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    said = message(MissingError, NAME, offline=True)
    assert f"{NAME} is not here (" in said and "this is offline: leave --offline out" in said


def test_a_hub_that_does_not_answer_is_said(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host.")

    monkeypatch.delenv("LGKD_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    said = message(MissingError, NAME)
    assert "(no route to host); expected a public data set of images, check name, CONFIG and connection" in said


def test_the_package_is_asked_for(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'lgkd[hf]'" in message(MissingError, NAME)


@pytest.mark.parametrize("name", ["hf:", "hf:mnist", "hf:../x", "hf:a/..", "hf:a/b/c", "hf:a/b:"])
def test_other_names_are_refused(name: str) -> None:
    assert "is not a name of the hub; expected hf:OWNER/NAME" in message(InputError, name)


def test_a_name_of_the_hub_is_kept_as_it_is_and_never_downloaded_for_a_run_of_somebody() -> None:
    assert place_of(NAME) == NAME and dataset_key(f"{NAME}:small") == "someone-leaves-small"
    found = source_at(NAME)
    assert isinstance(found, RecordedText) and find_source(found)._offline  # type: ignore[attr-defined]
