"""Images with several labels each, and the tables that name them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("blue", "green", "red")
SHARES = (0.5, 0.4, 0.25)


def draw_labels(count: int, seed: int = 0, shares: Sequence[float] = SHARES) -> np.ndarray[Any, Any]:
    """Labels of random images: (count, K) of 0 and 1."""
    return (np.random.default_rng(seed).random((count, len(shares))) < shares).astype(int)


def make_table(folder: Path, count: int = 60, *, seed: int = 0) -> Path:
    """FOLDER/images/NUMBER.png, 16 x 16, a square of each of their colours; labels.csv and hot.csv name them."""
    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(seed)
    labels = draw_labels(count, seed)
    for place, row in enumerate(labels):
        pixels = draw.integers(0, 60, (16, 16, 3))
        for channel in np.flatnonzero(row):
            top, left = draw.integers(0, 10, 2)
            pixels[top : top + 6, left : left + 6, 2 - channel] = 250
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{place:03}.png")
    paths = [f"images/{place:03}.png" for place in range(count)]
    lists = [";".join(name for name, one in zip(NAMES, row, strict=True) if one) for row in labels]
    write_rows(folder / "labels.csv", [("path", "labels"), *zip(paths, lists, strict=True)])
    write_rows(
        folder / "hot.csv", [("image", *NAMES), *((path, *row) for path, row in zip(paths, labels, strict=True))]
    )
    return folder / "labels.csv"


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
