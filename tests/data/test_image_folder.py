"""Image trees: layouts, and what is said of folders that follow none. Images are generated here."""

from pathlib import Path

import numpy as np
import pytest

from lgkd.data.image_formats import read_endings
from lgkd.data.load import load_dataset
from lgkd.errors import DataError, InputError
from tests.support.data import message, noise, save, tree, two_splits


def test_splits_and_classes_come_from_folders_and_pixels_from_files(tmp_path: Path) -> None:
    data = load_dataset(two_splits(tmp_path / "photos"))
    assert data.name == "photos"
    assert data.classes == ("a", "b")
    assert data.notes == ()
    assert data.train.names == ("train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.sizes.tolist() == [[6, 6]] * 4
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
    assert data.notes == (
        f"not used in {root}: 1 file that is not read as an image (.txt 1) and 1 folder of thumbnails or the like "
        "(__MACOSX 1)",
    )


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_serves_where_test_is_absent(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "d", "train/a", "train/b", f"{name}/a", f"{name}/b")
    data = load_dataset(root)
    assert data.test.names[0] == f"{name}/a/0.png"
    assert data.notes == (f"no folder named test: accuracy is reported on {name}",)


def test_test_wins_over_val_which_selects_and_what_is_not_used_is_said(tmp_path: Path) -> None:
    root = tree(two_splits(tmp_path / "d"), "val/a", "val/b", "other/a", count=3)
    save(root / "overview.png", noise(1))
    data = load_dataset(root)
    assert data.test.names[0] == "test/a/0.png"
    assert data.val is not None and data.val.names[:2] == ("val/a/0.png", "val/a/1.png") and len(data.val) == 6
    assert data.notes == (
        f"not used: 1 image directly in {root}, outside the class folders",
        f"not used: other, beside train in {root}",
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
    assert text == (
        "'cifar_100' is neither a known data set nor a folder; did you mean 'cifar100' or 'cifar10'? "
        "(a folder holds FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, or FOLDER/CLASS/*)"
    )
    assert "known: chaoyang, cifar10, cifar100, digits, flowers102, " in message(InputError, "some/where")


def test_an_empty_name_a_file_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    picture = save(tmp_path / "p.png", noise(0))
    assert message(InputError, " ").startswith("the name of the data set is empty: a data set is one of chaoyang,")
    assert message(InputError, str(picture)).startswith(f"'{picture}' is a file: a data set is one of chaoyang,")
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
    assert text.endswith(f"needed; if the classes are in {tmp_path}/e/inner, name that folder")


def test_classes_that_only_the_test_split_has_are_listed(tmp_path: Path) -> None:
    root = tree(two_splits(tmp_path / "d"), "test/d", "test/c")
    assert message(DataError, root) == (
        f"{root}/test has 2 classes that train lacks: c, d; every tested class must be trained on"
    )


def test_a_class_folder_without_images_is_named_with_what_it_holds(tmp_path: Path) -> None:
    root = two_splits(tmp_path / "d")
    (root / "train/c").mkdir()
    known = f"add images ({' '.join(sorted(ending[1:] for ending in read_endings()))}) or remove the folder"
    assert {"bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"} <= set(
        known[12:].split(")")[0].split()
    )
    assert message(DataError, root) == f"the class folder {root}/train/c holds no images (it is empty): {known}"
    (root / "train/c/x.txt").touch()
    (root / "train/c/README").touch()
    text = message(DataError, root)
    assert text == f"the class folder {root}/train/c holds no images (only other files: .txt, no ending): {known}"


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
