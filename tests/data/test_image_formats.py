"""Formats that are read only here and there, and files that are not used."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from lgkd.data import image_formats
from lgkd.data.decode import decode_readable
from lgkd.data.load import load_dataset
from tests.support.data import noise, save, tree, two_splits

HEAD = b"\0\0\0\x18ftypheic"
avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def as_bytes(kind: str, side: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(1, side, side)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lgkd.data.image_formats.find_spec", lambda name: None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    image_formats.read_formats.cache_clear(), image_formats.read_endings.cache_clear()
    yield
    image_formats.read_formats.cache_clear(), image_formats.read_endings.cache_clear()


@avif
def test_avif_is_trained_on(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "train/a/x.avif").write_bytes(as_bytes("AVIF"))
    assert "train/a/x.avif" in load_dataset(root).train.names


def test_what_is_not_read_here_is_counted_in_one_line_with_its_remedy(tmp_path: Path, without: None) -> None:
    root = two_splits(tmp_path / "d")
    for name in ("train/a/1.heic", "train/a/2.HEIC", "test/b/3.avif", "test/b/notes.txt"):
        (root / name).write_bytes(HEAD)
    (note,) = load_dataset(root).notes
    assert note.startswith(f"not used in {root}: 4 files that are not read as images (.heic 2, ")
    assert "HEIC is read where pillow-heif is installed: pip install pillow-heif" in note
    assert "pip install --upgrade pillow" in note
    (tmp_path / "x.jpg").write_bytes(HEAD)
    _, _, broken = decode_readable([tmp_path / "x.jpg"], max_side=8)
    assert broken[0] == "HEIC is read where pillow-heif is installed: pip install pillow-heif"


@avif
def test_an_avif_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.avif").write_bytes(as_bytes("AVIF", 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    _, _, broken = decode_readable([tmp_path / "x.avif"], max_side=8)
    assert "exceeds limit" in broken[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", pytest.param("AVIF", marks=avif)])
def test_changed_bytes_of_an_image_give_pixels_or_a_reason(tmp_path: Path, kind: str) -> None:
    whole, draw = as_bytes(kind), np.random.default_rng(0)
    for number in range(40):
        changed = bytearray(whole)
        changed[draw.integers(len(changed))] ^= 1 << draw.integers(8)
        cut = len(changed) if number % 2 else int(draw.integers(1, len(changed)))
        (tmp_path / f"{number}").write_bytes(bytes(changed[:cut]))
    pixels, _, broken = decode_readable([tmp_path / f"{number}" for number in range(40)], max_side=64)
    assert len(pixels) + len(broken) == 40
    assert all(broken.values())


def test_thumbnails_of_a_nas_are_not_trained_on(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    for folder in (
        "train/@eaDir",
        "train/a/@eaDir/0.png",
        "test/b/.thumbnails",
        "train/b/#recycle",
        "train/a/@__thumb",
    ):
        save(root / folder / "thumb.png", noise(9))
    data = load_dataset(root)
    assert (data.classes, len(data.train), len(data.test)) == (("a", "b"), 4, 4)
    assert "4 folders of thumbnails or the like (@eaDir 2, " in data.notes[0]


def test_class_folders_that_hold_only_folders_are_remarked_on(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "animals/cat", "animals/dog", "vehicles/car", count=5)
    (note,) = [note for note in load_dataset(root).notes if "only folders" in note]
    assert "(animals/cat, animals/dog, vehicles/car)" in note
    flat = tree(tmp_path / "e", "train/a/images", "train/b/images", "test/a/images", "test/b/images")
    assert load_dataset(flat).notes == ()
