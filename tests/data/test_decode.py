"""Decoding: colours, orientation, sizes, broken images. Images are generated here."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lgkd.data.load import load_dataset
from lgkd.errors import DataError
from tests.support.data import message, mixed, noise, save, tree, two_splits


def only(root: Path, **options: object) -> torch.Tensor:
    """Pixels of the images named a/x.* and b/x.* of a tree, train and test alike."""
    data = load_dataset(root, **options)  # type: ignore[arg-type]
    return data.train.pixels


def one_image(tmp_path: Path, name: str, data: bytes, **options: object) -> NDArray[np.uint8]:
    """What becomes of one file, as (height, width, 3), when all images of the set are that file."""
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "one" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / part / name).write_bytes(data)
    data_set = load_dataset(tmp_path / "one", use_cache=False, **options)  # type: ignore[arg-type]
    height, width = data_set.train.sizes[0].tolist()
    return data_set.train.pixels[0, :, :height, :width].permute(1, 2, 0).numpy()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = noise(1)[..., 0]
    got = one_image(tmp_path, "x.pgm", encoded(Image.fromarray(grey), "PPM"))
    assert np.array_equal(got, np.repeat(grey[..., None], 3, 2))


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(1)).quantize(8)
    table = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    got = one_image(tmp_path, "a.png", encoded(palette, "PNG"))
    assert np.array_equal(got, table[np.asarray(palette)])


def test_black_and_white_of_one_bit_become_0_and_255(tmp_path: Path) -> None:
    bits = noise(1)[..., 0] > 127
    got = one_image(tmp_path, "a.tif", encoded(Image.fromarray(bits), "TIFF"))
    assert np.array_equal(got, np.repeat(bits[..., None], 3, 2) * np.uint8(255))


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, 3] = 0, 51, 255, 0
    rgba[0, 2, :3] = 10, 20, 30
    got = one_image(tmp_path, "x.png", encoded(Image.fromarray(rgba), "PNG"))
    # alpha 51 is a fifth of black over white: 255 * 4 / 5
    assert got[0].tolist() == [[255, 255, 255], [204, 204, 204], [10, 20, 30], [255, 255, 255]]


def test_a_transparent_palette_entry_shows_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 70, 80, 90])
    image.putpixel((1, 0), 1)
    got = one_image(tmp_path, "x.gif", encoded(image, "GIF", transparency=0))
    assert got[0].tolist() == [[255, 255, 255], [70, 80, 90]]


@pytest.mark.parametrize(("name", "kind"), [("x.png", "PNG"), ("x.tif", "TIFF"), ("x.pgm", "PPM")])
def test_grey_of_sixteen_bits_is_scaled_not_clipped(tmp_path: Path, name: str, kind: str) -> None:
    values = np.array([[0, 128, 129, 32768, 65534, 65535]], np.uint16)
    got = one_image(tmp_path, name, encoded(Image.fromarray(values), kind))
    assert got[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]  # v / 257, to the nearest


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    got = one_image(tmp_path, "x.tif", encoded(image, "TIFF"))
    assert got[0, 0].tolist() == [255, 0, 0]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert one_image(tmp_path, "x.gif", data)[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(("kind", "name"), [("JPEG", "x.jpg"), ("PNG", "x.png"), ("TIFF", "x.tif")])
def test_images_stand_upright_as_pillow_would_turn_them(tmp_path: Path, orientation: int, kind: str, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise(3, 4, 7)), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(one_image(tmp_path, name, data), expected)


def test_broken_exif_data_does_not_break_an_image(tmp_path: Path) -> None:
    pixels = noise(4)
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0nonsense")
    assert np.array_equal(one_image(tmp_path, "x.png", data), pixels)


def test_equal_sides_lying_and_standing_are_different_sizes(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for part in ("train/a", "train/b", "test/a"):
        save(root / part / "x.png", noise(1, 4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "test/b").mkdir()
    (root / "test/b/x.png").write_bytes(encoded(Image.fromarray(noise(2, 4, 6)), "PNG", exif=exif))
    data = load_dataset(root)
    assert tuple(data.train.pixels.shape) == (2, 3, 6, 6)
    assert data.test.sizes.tolist() == [[4, 6], [6, 4]]
    (root / "test/b/x.png").write_bytes(encoded(Image.fromarray(noise(2, 6, 4)), "PNG", exif=exif))
    assert tuple(load_dataset(root).train.pixels.shape) == (2, 3, 4, 6)


def test_smaller_images_lie_in_the_upper_left_and_their_border_repeats(tmp_path: Path) -> None:
    images = load_dataset(mixed(tmp_path / "d", (4, 6), (3, 2))).train
    assert tuple(images.pixels.shape) == (2, 3, 6, 6)
    assert images.sizes.tolist() == [[4, 6], [3, 2]]
    for place, (height, width) in enumerate([(4, 6), (3, 2)]):
        padded = np.pad(noise(place, height, width), ((0, 6 - height), (0, 6 - width), (0, 0)), "edge")
        assert np.array_equal(images.pixels[place].permute(1, 2, 0).numpy(), padded)


def test_one_size_is_kept_as_it_is_even_above_the_default_side(tmp_path: Path) -> None:
    assert tuple(only(mixed(tmp_path / "d", (4, 300), (4, 300))).shape) == (2, 3, 4, 300)


def test_images_of_different_sizes_are_scaled_down_to_256(tmp_path: Path) -> None:
    data = load_dataset(mixed(tmp_path / "d", (10, 512), (9, 9)))
    assert tuple(data.train.pixels.shape) == (2, 3, 256, 256)
    assert data.train.sizes.tolist() == [[5, 256], [9, 9]]


def test_max_side_scales_with_antialiased_bicubic_and_keeps_the_aspect(tmp_path: Path) -> None:
    images = load_dataset(mixed(tmp_path / "d", (24, 48), (24, 48)), max_side=16).train
    assert tuple(images.pixels.shape) == (2, 3, 16, 16)
    assert images.sizes.tolist() == [[8, 16], [8, 16]]
    source = torch.from_numpy(noise(0, 24, 48)).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(source, (8, 16), mode="bicubic", antialias=True, align_corners=False)
    assert (images.pixels[0, :, :8].float() - expected[0].clamp(0, 255)).abs().max() < 1.5


def test_a_thin_image_keeps_at_least_one_row(tmp_path: Path) -> None:
    data = load_dataset(mixed(tmp_path / "d", (1, 600), (9, 9)), max_side=32)
    assert data.train.sizes.tolist() == [[1, 32], [9, 9]]


def test_large_jpegs_decoded_at_a_fraction_look_like_the_whole(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:400, 0:600]
    smooth = np.stack([rows * 255 / 400, columns * 255 / 600, (rows + columns) / 4], -1).astype(np.uint8)
    image = Image.fromarray(smooth)
    got = one_image(tmp_path, "x.jpg", encoded(image, "JPEG", quality=95), max_side=40)
    expected = np.asarray(image.resize((40, 27), Image.Resampling.BICUBIC))
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 6


def test_broken_images_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train/a", "train/b", "test/a", "test/b", count=3)
    whole = (root / "train/b/0.png").read_bytes()
    (root / "train/a/0.png").write_bytes(b"")
    (root / "train/a/2.png").write_bytes(b"hello")
    text = message(DataError, root)
    assert text == (
        f"2 of 12 images in {root} cannot be read: train/a/0.png (it is empty); "
        "train/a/2.png (not an image that Pillow knows): replace them or remove them"
    )
    for name in ("train/a/1.png", "train/b/0.png", "train/b/1.png", "test/a/0.png", "test/b/2.png"):
        (root / name).write_bytes(whole[: len(whole) - 30])  # the head is whole: found on decoding only
    text = message(DataError, root)
    assert text.startswith(f"7 of 12 images in {root} cannot be read: train/a/0.png (")
    assert "train/b/1.png (" in text
    assert text.endswith("; and 2 more: replace them or remove them")
    assert "test/a" not in text


def test_one_broken_image_is_spoken_of_as_one(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "test/b/1.png").write_bytes(b"x")
    assert message(DataError, root).endswith("test/b/1.png (not an image that Pillow knows): replace it or remove it")


def test_a_decompression_bomb_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    root = two_splits(tmp_path / "d")
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (root / "train/a/0.png").write_bytes(data)
    text = message(DataError, root)
    assert "1 of 8 images" in text
    assert "train/a/0.png (Image size (3600000000 pixels) exceeds limit" in text


def test_progress_grows_to_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_dataset(two_splits(tmp_path / "d"), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (8, 8)
