"""Training images reduced to what the views need: which size, which pixels, and what stays as it was."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.config import View
from lgkd.data.dataset import Images
from lgkd.data.prepare import prepare_data
from lgkd.data.stored_side import needed_side, reduce_images
from lgkd.data.transforms.resized_crop import CROP_DRAWS, random_resized_boxes
from lgkd.errors import InputError, MissingError, TakenError
from tests.support.small import TINY_OPTIONS, TRAIN, World, make_pictures, pause_after

SHORT = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 1, "batch_size": 8}


def images(*sizes: tuple[int, int], canvas: tuple[int, int]) -> Images:
    draw = np.random.default_rng(3)
    pixels = np.zeros((len(sizes), 3, *canvas), np.uint8)
    for place, (height, width) in enumerate(sizes):
        pixels[place, :, :height, :width] = draw.integers(0, 256, (3, height, width))
    return Images(
        torch.from_numpy(pixels),
        torch.tensor(sizes, dtype=torch.int32),
        torch.arange(len(sizes)),
        tuple(f"{place}.png" for place in range(len(sizes))),
    )


@pytest.mark.parametrize(
    ("view", "sizes", "side"),
    [
        (View(scale=(0.08, 1.0)), [(64, 64)], 227),  # 64 / sqrt(0.08) = 226.27
        (View(scale=(0.25, 1.0)), [(64, 64)], 128),
        (View(scale=(0.25, 1.0)), [(32, 32), (112, 96)], 224),
        (View(crop="none"), [(64, 64)], 64),
        (View(crop="pad"), [(64, 48)], 64),
    ],
)
def test_the_side_is_that_of_the_smallest_view(view: View, sizes: list[tuple[int, int]], side: int) -> None:
    assert needed_side(view, sizes) == side


def test_no_square_view_of_a_square_image_of_that_side_is_enlarged() -> None:
    side = needed_side(View(), [(64, 64)])
    draws = np.random.default_rng(0).random((20_000, CROP_DRAWS))
    boxes = random_resized_boxes(np.full((20_000, 2), side), draws, View().scale, (1.0, 1.0))
    assert boxes[:, 2:].min() == 64


def test_large_images_are_pillows_and_small_ones_stay() -> None:
    whole = images((30, 60), (10, 12), (50, 20), canvas=(60, 60))
    small = reduce_images(whole, 15, key="x", fingerprint="f")
    assert small.sizes.tolist() == [[15, 30], [10, 12], [38, 15]]  # 50 * 15 / 20 = 37.5
    assert small.pixels.shape == (3, 3, 38, 38), "square as it was"
    for place, (height, width) in enumerate(small.sizes.tolist()):
        rows, columns = whole.sizes[place].tolist()
        plain = Image.fromarray(whole.pixels[place, :, :rows, :columns].permute(1, 2, 0).numpy())
        expected = np.asarray(plain.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        found = small.pixels[place].numpy()
        assert np.array_equal(found[:, :height, :width], expected)
        # The rest repeats the border.
        assert np.array_equal(found, np.pad(expected, ((0, 0), (0, 38 - height), (0, 38 - width)), mode="edge"))
    assert small.names == whole.names and torch.equal(small.labels, whole.labels)
    assert reduce_images(whole, 30, key="x", fingerprint="f") is whole
    equal = reduce_images(images((20, 30), (20, 30), canvas=(20, 30)), 10, key="x", fingerprint="f")
    assert equal.pixels.shape == (2, 3, 10, 15)


def test_sizes_and_data_sets_have_copies_of_their_own_in_the_store(tmp_path: Path) -> None:
    whole, other = images((30, 60), canvas=(60, 60)), images((24, 48), canvas=(60, 60))
    first = reduce_images(whole, 15, key="x", fingerprint="f").pixels.clone()
    assert reduce_images(whole, 10, key="x", fingerprint="f").sizes.tolist() == [[10, 20]]
    store = tmp_path / "lgkd-home" / "cache" / "images"
    entries = {entry.name: entry.stat().st_mtime_ns for entry in store.iterdir()}
    assert len(entries) == 2
    # Read from the store: pixels that have changed since, under the same name, are not looked at.
    blank = Images(torch.zeros_like(whole.pixels), whole.sizes, whole.labels, whole.names)
    assert torch.equal(reduce_images(blank, 15, key="x", fingerprint="f").pixels, first)
    assert {entry.name: entry.stat().st_mtime_ns for entry in store.iterdir()} == entries
    assert reduce_images(other, 15, key="y", fingerprint="g").sizes.tolist() == [[15, 30]]
    assert len(list(store.iterdir())) == 3


def test_test_images_fingerprint_and_statistics_stay(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    plain = prepare_data(folder, normalize="dataset", val_fraction=0.25)
    small = prepare_data(folder, normalize="dataset", val_fraction=0.25, reduce_to=8)
    assert small.train.pixels.shape[2:] == small.val.pixels.shape[2:] == (8, 8)
    assert torch.equal(small.test.pixels, plain.test.pixels)
    assert (small.fingerprint, small.mean, small.std) == (plain.fingerprint, plain.mean, plain.std)
    assert small.train.names == plain.train.names and (small.stored_side, plain.stored_side) == (8, None)
    same = prepare_data(folder, normalize="dataset", reduce_to=12)
    assert same.stored_side is None and same.train.pixels.shape[2:] == (12, 12)


def test_extra_images_are_reduced_as_well(tmp_path: Path) -> None:
    folder, more = make_pictures(tmp_path / "pictures"), make_pictures(tmp_path / "more", train=2) / "train"
    data = prepare_data(folder, normalize="imagenet", extra=more, reduce_to=8)
    assert data.extra is not None and data.extra.images.pixels.shape == (6, 3, 8, 8)


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def about(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def equal(one: str, other: str) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_training_on_images_that_are_small_is_the_same_to_the_bit(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*TRAIN, "--dataset", str(world.pictures)]
    assert run([*command, "--stored-side", "auto", "--out", "auto"]) == 0
    assert run([*command, "--out", "plain"]) == 0
    assert equal("auto", "plain") and "stored_side" not in about("auto")["dataset"]


def test_a_training_on_reduced_images_is_resumed_with_them_and_evaluated_on_whole_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*TRAIN, "--dataset", str(world.pictures), "--set", "view.scale=[1,1]"]
    assert run([*command, "--image-size", "8", "--stored-side", "auto", "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--image-size", "8", "--stored-side", "auto", "--out", "parts"]) == 75
    assert about("parts")["dataset"]["stored_side"] == 8
    assert about("parts")["call"]["options"]["stored_side"] == "8", "whatever the view of the recipe"
    assert run(["resume", "parts", "--quiet"]) == 0
    assert equal("parts", "whole")
    scores = lgkd.evaluate("whole")
    assert scores.top1 == about("whole")["results"]["test_top1"]
    assert scores.loss == pytest.approx(about("whole")["results"]["test_loss"], rel=1e-6)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--stored-side", "9", "--out", "other"]) == 75
    with pytest.raises(TakenError, match=r"dataset.stored_side: was 9, now 10"):
        lgkd.resume("other", stored_side=10)


def test_a_cache_of_other_sizes_is_not_used(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    lgkd.train_teacher("resnet8", world.pictures, image_size=16, epochs=1, batch_size=8, out="teacher")
    options = {"student_options": TINY_OPTIONS, "image_size": 16}
    lgkd.cache_teacher("deit_tiny", "resnet8", world.pictures, views=1, stored_side=8, **options)
    with pytest.raises((InputError, MissingError), match="stored side"):
        lgkd.distill("deit_tiny", "resnet8", world.pictures, cached="auto", out="run", **SHORT)
    made = lgkd.distill("deit_tiny", "resnet8", world.pictures, cached="auto", stored_side=8, out="run", **SHORT)
    assert made.info["dataset"]["stored_side"] == 8


@pytest.mark.parametrize("text", ["small", "0", "-3", "1.5"])
def test_a_side_is_auto_or_pixels(world: World, text: str) -> None:
    with pytest.raises(InputError, match=rf"--stored-side is '{text}', expected auto, or pixels of the shorter side"):
        lgkd.train("deit_tiny", world.pictures, stored_side=text)


def test_the_saving_is_the_square_of_the_sides(tmp_path: Path) -> None:
    """416 px for views of 64 px, of a quarter of the area at least: 128 px."""
    whole = images(*[(416, 416)] * 3, canvas=(416, 416))
    small = reduce_images(whole, needed_side(View(scale=(0.25, 1.0)), [(64, 64)]), key="x", fingerprint="f")
    assert whole.pixels.nbytes / small.pixels.nbytes == pytest.approx((416 / 128) ** 2)
    assert math.prod(small.pixels.shape) == 3 * 3 * 128**2
