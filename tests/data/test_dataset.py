"""Decoded images: their fingerprint and their statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd.data.dataset import Images
from lgkd.data.load import load_dataset
from lgkd.errors import DataError
from tests.support.data import mixed, noise, save, two_splits


def test_the_fingerprint_is_of_the_images_not_of_their_files(tmp_path: Path) -> None:
    first = load_dataset(two_splits(tmp_path / "first")).fingerprint
    other = two_splits(tmp_path / "other/place")
    for path in sorted(other.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    assert load_dataset(other).fingerprint == first
    assert len(first) == 64


def test_a_pixel_a_label_and_a_class_name_change_the_fingerprint(tmp_path: Path) -> None:
    prints = {load_dataset(two_splits(tmp_path / "0")).fingerprint}
    root = two_splits(tmp_path / "1")
    pixels = noise(0)
    pixels[2, 3, 1] ^= 1
    save(root / "train/a/0.png", pixels)
    prints.add(load_dataset(root).fingerprint)
    root = two_splits(tmp_path / "2")
    (root / "train/a/1.png").rename(root / "train/b/00.png")
    (root / "train/b/0.png").rename(root / "train/b/01.png")
    prints.add(load_dataset(root).fingerprint)
    root = two_splits(tmp_path / "3")
    for split in ("train", "test"):
        (root / split / "b").rename(root / split / "c")
    prints.add(load_dataset(root).fingerprint)
    assert len(prints) == 4


def test_statistics_agree_with_numpy_and_leave_the_padding_out(tmp_path: Path) -> None:
    sizes = [(4, 6), (3, 2), (6, 6)]
    mean, deviation = load_dataset(mixed(tmp_path / "d", *sizes)).statistics()
    values = np.concatenate([noise(place, *size).reshape(-1, 3) for place, size in enumerate(sizes)]) / 255
    assert np.allclose(mean, values.mean(0), rtol=0, atol=1e-12)
    assert np.allclose(deviation, values.std(0), rtol=0, atol=1e-12)


def test_statistics_of_one_size_do_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("digits")
    whole = data.statistics()
    monkeypatch.setattr("lgkd.data.dataset._CHUNK_BYTES", 1000)
    assert data.statistics() == whole
    values = data.train.pixels[:, 0].double().numpy() / 255
    assert np.allclose((whole[0][0], whole[1][0]), (values.mean(), values.std()), rtol=0, atol=1e-12)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    good = load_dataset("digits").test.take(torch.tensor([3, 1]))
    with pytest.raises(DataError, match=r"labels of 2 images is torch.int64 \(1,\), expected torch.int64 \(2,\)"):
        Images(good.pixels, good.sizes, good.labels[:1], good.names)
    with pytest.raises(DataError, match=r"pixels of 2 images is torch.float32 .* expected torch.uint8"):
        Images(good.pixels.float(), good.sizes, good.labels, good.names)
