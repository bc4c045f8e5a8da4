"""Data sources: layouts, decoding, messages. Images are generated here or come with scikit-learn."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lgkd.data.catalogue import CATALOGUE, DataSetInfo
from lgkd.data.images import Images
from lgkd.data.sources import load_dataset
from lgkd.errors import DataError, InputError, MissingError


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def noise(seed: int, height: int = 5, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path, *parts: str, count: int = 2) -> Path:
    """Folders of `count` small PNGs; pixels depend on the place in the call alone."""
    for number, part in enumerate(parts):
        for image in range(count):
            save(root / part / f"{image}.png", noise(100 * number + image))
    return root


def only(root: Path, **options: object) -> torch.Tensor:
    """Pixels of the images named a/x.* and b/x.* of a tree, train and test alike."""
    data = load_dataset(root, **options)  # type: ignore[arg-type]
    return data.train.pixels


def two_splits(root: Path) -> Path:
    return tree(root, "train/a", "train/b", "test/a", "test/b")


def message(error: type[Exception], name: object, **options: object) -> str:
    with pytest.raises(error) as caught:
        load_dataset(name, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# Layouts


def test_splits_and_classes_come_from_folders_and_pixels_from_files(tmp_path: Path) -> None:
    data = load_dataset(two_splits(tmp_path / "photos"))
    assert data.name == "photos"
    assert data.classes == ("a", "b")
    assert data.notes == ()
    assert data.train.names == ("train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.sizes.tolist() == [[5, 5]] * 4
    expected = [noise(seed).transpose(2, 0, 1) for seed in (0, 1, 100, 101)]
    assert np.array_equal(data.train.pixels.numpy(), np.stack(expected))


def test_classes_are_numbered_in_sorted_order_and_folders_below_them_belong_to_them(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train/pear/ripe/red", "train/pear", "train/Apple", "test/pear")
    data = load_dataset(str(root))
    assert data.classes == ("Apple", "pear")
    assert "train/pear/ripe/red/0.png" in data.train.names
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert data.test.labels.tolist() == [1, 1]
    assert data.notes == ("test has no images of 1 class: Apple",)


def test_hidden_and_foreign_files_are_passed_over_and_endings_may_be_upper_case(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "train/a/.hidden.png").write_bytes(b"no image")
    (root / "train/a/notes.txt").write_text("text")
    (root / ".git").mkdir()
    (root / "__MACOSX/train").mkdir(parents=True)
    (root / "train/a/0.png").rename(root / "train/a/0.PNG")
    data = load_dataset(root)
    assert data.train.names[:2] == ("train/a/0.PNG", "train/a/1.png")
    assert data.notes == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_serves_where_test_is_absent(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "d", "train/a", "train/b", f"{name}/a", f"{name}/b")
    data = load_dataset(root)
    assert data.test.names[0] == f"{name}/a/0.png"
    assert data.notes == (f"no folder named test: accuracy is reported on {name}",)


def test_test_wins_over_val_and_what_is_not_used_is_said(tmp_path: Path) -> None:
    root = tree(two_splits(tmp_path / "d"), "val/a", "val/b")
    save(root / "overview.png", noise(1))
    data = load_dataset(root)
    assert data.test.names[0] == "test/a/0.png"
    assert data.notes == (
        f"not used: 1 image directly in {root}, outside the class folders",
        f"not used: val, beside train in {root}",
    )


def test_training_and_testing_are_never_taken_for_two_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "Training/a", "Training/b", "Testing/a", "Testing/b")
    data = load_dataset(root)
    assert data.classes == ("a", "b")
    assert data.notes == ()


@pytest.mark.parametrize("below", ["", "train/"])
def test_without_a_second_split_a_fifth_of_each_class_is_held_out(tmp_path: Path, below: str) -> None:
    root = tree(tmp_path / "d", f"{below}a", f"{below}b", count=10)
    data = load_dataset(root)
    assert data.classes == ("a", "b")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert not set(data.test.names) & set(data.train.names)
    assert data.notes == ("no test split found: 20 % of each class held out (seed 0)",)
    assert load_dataset(root, use_cache=False).test.names == data.test.names


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    assert load_dataset(tree(tmp_path / "d", "train", "car")).classes == ("car", "train")


def test_links_are_followed_and_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    tree(tmp_path / "elsewhere", "c")
    (root / "train/c").symlink_to(tmp_path / "elsewhere/c")
    (root / "train/a/loop").symlink_to(root / "train/a")
    data = load_dataset(root)
    assert data.classes == ("a", "b", "c")
    assert len(data.train) == 6


# Messages


def test_a_mistyped_name_is_met_with_the_closest(tmp_path: Path) -> None:
    text = message(InputError, "cifar_100")
    assert text == "no data set 'cifar_100' and no folder of that name: did you mean 'cifar100' or 'cifar10'?"
    assert "known: cifar10, cifar100, digits, flowers102" in message(InputError, "some/where")


def test_an_empty_name_a_file_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    picture = save(tmp_path / "p.png", noise(0))
    assert message(InputError, " ").startswith("the name of the data set is empty: a data set is one of cifar10,")
    assert message(InputError, str(picture)).startswith(f"'{picture}' is a file: a data set is one of cifar10,")
    assert message(DataError, tmp_path / "gone").startswith(f"no folder {tmp_path / 'gone'}: expected FOLDER/train")


def test_folders_without_classes_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert message(DataError, empty).startswith(f"{empty} holds no class folders and no images: expected FOLDER/")
    save(tmp_path / "flat/x.png", noise(0))
    assert "flat holds images, but no class folders: expected FOLDER/" in message(DataError, tmp_path / "flat")
    save(tmp_path / "s/train/x.png", noise(0))
    save(tmp_path / "s/test/x.png", noise(0))
    text = message(DataError, tmp_path / "s")
    assert text.endswith("s/train holds images, but no class folders: expected train/CLASS/*")
    text = message(DataError, tree(tmp_path / "t", "test/a", "test/b"))
    assert "t has a folder 'test', but none named 'train': expected FOLDER/" in text


def test_one_class_is_not_enough_and_a_folder_too_many_is_seen(tmp_path: Path) -> None:
    text = message(DataError, tree(tmp_path / "d", "train/a", "test/a"))
    assert text == f"{tmp_path}/d/train has one class only, 'a': at least two are needed"
    text = message(DataError, tree(tmp_path / "e", "inner/a", "inner/b"))
    assert text.endswith(f"needed; if the classes lie in {tmp_path}/e/inner, name that folder")


def test_classes_that_only_the_test_split_has_are_listed(tmp_path: Path) -> None:
    root = tree(two_splits(tmp_path / "d"), "test/d", "test/c")
    assert message(DataError, root) == (
        f"{root}/test has 2 classes that train lacks: c, d; every tested class must be trained on"
    )


def test_a_class_folder_without_images_is_named_with_what_it_holds(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "train/c").mkdir()
    known = "add images (bmp gif jpeg jpg pgm png ppm tif tiff webp) or remove the folder"
    assert message(DataError, root) == f"the class folder {root}/train/c holds no images (it is empty): {known}"
    (root / "train/c/x.HEIC").touch()
    (root / "train/c/README").touch()
    text = message(DataError, root)
    assert text == f"the class folder {root}/train/c holds no images (only other files: .heic, no ending): {known}"


def test_a_class_of_one_image_cannot_be_held_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "a", "b")
    (root / "b/1.png").unlink()
    assert message(DataError, root) == (
        "no test split found, and the class 'b' holds 1 image: a class needs at least 2 to hold one out"
    )


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "train/a/9.png").symlink_to(tmp_path / "nowhere.png")
    assert message(DataError, root) == (
        f"cannot read {root}/train/a/9.png: No such file or directory; check the folder and its links"
    )


def test_max_side_below_one_is_refused() -> None:
    assert message(InputError, "digits", max_side=0) == "max_side is 0, expected at least 1 pixel"
    assert message(InputError, "digits", max_side=4) == "max_side is 4, but digits are 8 x 8: leave it out"


# Named sets


def small_set(monkeypatch: pytest.MonkeyPatch, classes: int = 2) -> None:
    info = DataSetInfo("cifar10", "two classes of noise", classes, train=4, test=4, image_size=5, source="here")
    monkeypatch.setitem(CATALOGUE, "cifar10", info)


def test_a_named_set_is_looked_for_in_the_working_folder_then_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(monkeypatch)
    in_store = two_splits(tmp_path / "home/data/cifar10")
    assert load_dataset("cifar10").name == "cifar10"
    here = tree(two_splits(tmp_path / "work/data/cifar10"), "train/a", count=3)
    data = load_dataset("cifar10")
    assert len(data.train) == 5
    assert data.notes == ("5 training images found, cifar10 was published with 4",)
    for given in (in_store, in_store.parent, str(in_store)):
        assert len(load_dataset("cifar10", data_dir=given).train) == 4
    assert here.is_dir()


def test_an_absent_named_set_lists_every_place_and_the_layout(tmp_path: Path) -> None:
    text = message(MissingError, "cifar100")
    work, store = tmp_path / "work/data/cifar100", tmp_path / "home/data/cifar100"
    assert text == (
        f"cifar100 is not here; looked for folders train and test, cifar-100-binary.tar.gz in: {work}, {work.parent}, "
        f"{store}; put its images at {work}/train/CLASS/* and {work}/test/CLASS/*, "
        f"or get https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz and put it in {store}, "
        f"or let lgkd download it: without --offline, and LGKD_OFFLINE not set"
    )
    text = message(MissingError, "cifar100", data_dir=tmp_path / "x")
    assert f"in: {tmp_path}/x/cifar100, {tmp_path}/x, {store}; put" in text
    assert text.endswith(f"or correct the folder: {tmp_path}/x does not exist")


def test_a_named_set_with_other_classes_is_refused(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "cifar100")
    assert message(DataError, "cifar100", data_dir=tmp_path) == (
        f"{root} has 2 classes, cifar100 has 100: it is another data set, or a part of this one is missing"
    )


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, lgkd.data.catalogue as c; assert 'torch' not in sys.modules; print(*c.CATALOGUE)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["digits", "cifar10", "cifar100", "flowers102"]


def test_digits_are_as_the_catalogue_says_and_as_scikit_learn_has_them() -> None:
    from sklearn.datasets import load_digits

    data, info = load_dataset("digits"), CATALOGUE["digits"]
    assert (len(data.classes), len(data.train), len(data.test)) == (info.classes, info.train, info.test)
    raw = load_digits()
    seen = set()
    for images in (data.train, data.test):
        for place in range(0, len(images), 7):
            number = int(images.names[place].rsplit("/", 1)[1])
            seen.add(number)
            assert int(images.labels[place]) == raw.target[number]
            for channel in range(3):
                back = images.pixels[place, channel].double().numpy() * 16 / 255
                assert np.abs(back - raw.images[number]).max() < 0.05
    assert int(data.train.pixels.max()) == 255
    assert not set(data.train.names) & set(data.test.names)
    for count, whole in zip(data.test.labels.bincount(), np.bincount(raw.target), strict=True):
        assert abs(int(count) - whole / 3) <= 0.5
    assert data.fingerprint == load_dataset("digits").fingerprint


# Decoding


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


def test_float_images_are_refused_because_their_white_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="grey values are not of 8 or 16 bits, so what is white is unknown"):
        one_image(tmp_path, "x.tif", encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


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


def mixed(root: Path, *sizes: tuple[int, int]) -> Path:
    for number, (height, width) in enumerate(sizes):
        save(root / f"train/{number}/x.png", noise(number, height, width))
        save(root / f"test/{number}/x.png", noise(number, height, width))
    return root


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
        f"2 of 12 images in {root} cannot be read: train/a/0.png (not an image that Pillow knows); "
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


# Fingerprint and statistics


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
    monkeypatch.setattr("lgkd.data.images._CHUNK_BYTES", 1000)
    assert data.statistics() == whole
    values = data.train.pixels[:, 0].double().numpy() / 255
    assert np.allclose((whole[0][0], whole[1][0]), (values.mean(), values.std()), rtol=0, atol=1e-12)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    good = load_dataset("digits").test.take(torch.tensor([3, 1]))
    with pytest.raises(DataError, match=r"labels of 2 images is torch.int64 \(1,\), expected torch.int64 \(2,\)"):
        Images(good.pixels, good.sizes, good.labels[:1], good.names)
    with pytest.raises(DataError, match=r"pixels of 2 images is torch.float32 .* expected torch.uint8"):
        Images(good.pixels.float(), good.sizes, good.labels, good.names)
