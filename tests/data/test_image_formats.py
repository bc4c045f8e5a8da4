"""Formats that are read only here and there, and files that are not used."""

import io
from importlib.util import find_spec
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
heic = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")


def as_bytes(kind: str, side: int = 32) -> bytes:
    stream = io.BytesIO()
    if kind == "HEIF":
        image_formats.read_formats()  # which makes it known to Pillow
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


@heic
@pytest.mark.parametrize("ending", ["heic", "heif", "hif", "HEIC"])
def test_heic_is_trained_on_where_pillow_heif_is_installed(tmp_path: Path, ending: str) -> None:
    root = two_splits(tmp_path / "d")
    (root / f"train/a/x.{ending}").write_bytes(as_bytes("HEIF"))
    data = load_dataset(root)
    assert f"train/a/x.{ending}" in data.train.names and data.notes == ()


@pytest.mark.parametrize("kind", [pytest.param("AVIF", marks=avif), pytest.param("HEIF", marks=heic)])
def test_a_picture_is_upright_and_has_its_colours(tmp_path: Path, kind: str) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24], picture[:, 24:], picture[:8] = (200, 30, 30), (30, 30, 200), (30, 200, 30)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    as_bytes(kind)
    Image.fromarray(picture).save(tmp_path / "x", kind, exif=turned.tobytes(), quality=95)
    pixels, sizes, broken = decode_readable([tmp_path / "x"], max_side=64)
    assert broken == {} and sizes[0].tolist() == [48, 32]
    found = pixels[0, :, :48, :32].transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.rot90(picture, -1)).mean() < 8


@pytest.mark.parametrize("kind", [pytest.param("AVIF", marks=avif), pytest.param("HEIF", marks=heic)])
def test_a_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (tmp_path / "x").write_bytes(as_bytes(kind, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    _, _, broken = decode_readable([tmp_path / "x"], max_side=8)
    assert "exceeds limit" in broken[0]


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", pytest.param("AVIF", marks=avif), pytest.param("HEIF", marks=heic)]
)
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
