"""Damaged caches of a teacher's outputs: found when they are opened or read, and named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lgkd.distillation.teacher_cache.storage import open_cache
from lgkd.errors import InputError, MissingError, Remark
from tests.support.teacher_cache import augment, make_task, write
from tests.support.training import make_images


def damaged(folder: Path, how: str) -> Path:
    """A copy of a cache that was damaged in one way."""
    place = folder.with_name(how)
    shutil.copytree(folder, place)
    index = json.loads((place / "index.json").read_text())
    if how == "cut":
        os.truncate(place / "map2.npy", (place / "map2.npy").stat().st_size - 1)
    elif how == "gone":
        (place / "logits.npy").unlink()
    elif how == "changed":
        (place / "index.json").write_text(json.dumps(index | {"views": 3}))
    elif how == "no JSON":
        (place / "index.json").write_text("{")
    elif how == "no index":
        (place / "index.json").unlink()
    elif how == "no header":
        file = place / "map1.npy"
        file.write_bytes(b"\0" * file.stat().st_size)
    return place


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "map2.npy has"),
        ("gone", "logits.npy has 0 bytes"),
        ("changed", "index.json is corrupt; remove the folder"),
        ("no JSON", "index.json is corrupt; remove the folder"),
        ("no index", "has no index.json; expected a cache"),
        ("no header", "map1.npy cannot be read"),
    ],
)
def test_a_damaged_cache_is_refused_in_one_line(tmp_path: Path, how: str, message: str) -> None:
    images, drawn, task = make_images(12), augment(), make_task()
    write(tmp_path / "cache", task.guide, images, drawn)
    with pytest.raises(InputError) as caught:
        open_cache(damaged(tmp_path / "cache", how))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no folder"):
        open_cache(tmp_path / "cache")


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << 6
    file.write_bytes(data)


def test_a_flipped_bit_of_any_view_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Twenty in the second view, at which no training looks before its second epoch."""
    images, drawn, task = make_images(12), augment(), make_task()
    cache = write(tmp_path / "cache", task.guide, images, drawn)
    file = tmp_path / "cache" / "map1.npy"
    size, half = file.stat().st_size, cache.arrays["map1"].nbytes // 2
    for number in range(20):
        place = size - 1 - number * (half // 20)
        flip(file, place)
        with pytest.raises(InputError, match=r"map1.npy: block 0 .* has SHA-256 \w{64}, expected \w{64}; it is dam"):
            open_cache(tmp_path / "cache").read("map1", 1, np.arange(12))
        flip(file, place)
    assert np.array_equal(open_cache(tmp_path / "cache").read("map1", 1, np.arange(12)), cache.arrays["map1"][1])


def test_a_stopped_cache_whose_rows_were_changed_is_begun_anew(tmp_path: Path) -> None:
    images, drawn, task = make_images(), augment(), make_task()
    whole = write(tmp_path / "whole", task.guide, images, drawn)

    def stops(done: int, total: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", task.guide, images, drawn, progress=stops)
    flip(tmp_path / ".cache.part" / "map1.npy", 1000)
    seen: list[int] = []
    cache = write(tmp_path / "cache", task.guide, images, drawn, progress=lambda done, _: seen.append(done))
    assert seen[0] <= 16
    assert all(np.array_equal(array, cache.arrays[name]) for name, array in whole.arrays.items())


def test_a_cache_of_an_older_version_is_read_with_one_line(tmp_path: Path) -> None:
    write(tmp_path / "cache", make_task().guide, make_images(12), augment())
    (tmp_path / "cache" / "MANIFEST.json").unlink()
    with pytest.warns(Remark, match="cache could not be verified: there is no MANIFEST.json"):
        cache = open_cache(tmp_path / "cache")
    assert np.array_equal(cache.read("map1", 1, np.arange(12)), cache.arrays["map1"][1])
