"""The same images as a folder, as a table and as a data set of Hugging Face."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

ROLES = ("train", "test", "val")


def rows_of(folder: Path) -> list[tuple[str, str, str]]:
    """Path, class and split of every image of FOLDER/SPLIT/CLASS/*."""
    return [
        (path.relative_to(folder).as_posix(), path.parent.name, path.parts[-3])
        for path in sorted(folder.glob("*/*/*.png"))
    ]


def write_table(
    file: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = ("path", "label", "split"), delimiter: str = ","
) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(rows)
    return file


def save_hugging_face(folder: Path, out: Path, classes: Sequence[str]) -> Path:
    """Write the images with `datasets`, their labels numbered as in `classes`."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    rows = rows_of(folder)
    parts = {}
    for role in ROLES:
        own = [row for row in rows if row[2] == role]
        columns = {"image": [str(folder / path) for path, _, _ in own], "label": [label for _, label, _ in own]}
        if own:
            parts[role] = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(str(out))
    return out
