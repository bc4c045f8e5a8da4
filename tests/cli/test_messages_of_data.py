"""What the room of data says of bad input, word for word; what the other tests of data do not read."""

import errno
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lgkd.config import Mix, View
from lgkd.data import decode
from lgkd.data.image_folder import read_tree
from lgkd.data.load import load_dataset
from lgkd.data.sampler import Sampler
from lgkd.data.sources import download, publisher_files
from lgkd.data.sources.archives import opened_zip, read_tar
from lgkd.data.sources.arrange import arrange
from lgkd.data.sources.source import find_source
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from lgkd.errors import DataError, InputError, MissingError
from tests.support.arranging import jpeg, make_given, tiny_files
from tests.support.arranging import refused as refused_to_arrange
from tests.support.download import Server, get
from tests.support.download import server as server
from tests.support.published import make_cifar, make_flowers, tar
from tests.support.small import make_pictures

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


# Archives


def packed(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile remarks on equal names
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_an_archive_that_has_a_file_twice_says_so(tmp_path: Path) -> None:
    path = packed(tmp_path / "b.zip", ("x", b"1"), ("x", b"2"))
    with (
        pytest.raises(DataError, match=r"b\.zip has x twice: it is not the published archive"),
        opened_zip(path, max_bytes=100, max_members=9),
    ):
        pass


def test_a_member_that_is_shorter_than_its_archive_says_is_cut(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("x", b"four"))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24] += 1  # the size of the file in the archive's list
    path.write_bytes(content)
    with (
        opened_zip(path, max_bytes=100, max_members=9) as members,
        pytest.raises(DataError, match=r"a\.zip is cut in x: remove it, or put the whole one"),
    ):
        members.read("x")


def test_a_file_of_another_size_than_published_is_named_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cifar(tmp_path / "cifar100", monkeypatch, change={"cifar-100-binary/test.bin": b"short"})
    with pytest.raises(DataError, match=r"test\.bin in .* has 5 bytes, expected 250: it is not the published archive"):
        load_dataset("cifar100", data_dir=tmp_path)


def test_numbers_that_are_not_whole_are_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers102").mkdir()
    make_flowers(tmp_path / "flowers102", monkeypatch, labels=np.full((1, 8), 1.5))
    with pytest.raises(DataError, match=r"'labels' in .* has numbers that are not whole: it is not the published file"):
        load_dataset("flowers102", data_dir=tmp_path)


def test_a_tar_is_refused_where_a_wanted_file_comes_again(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tgz", {"x": b"1", "./x": b"2"})  # two names of one place
    with pytest.raises(DataError, match=r"a\.tgz has x twice: it is not the published archive"):
        dict(read_tar(path, {"x": 9}, max_bytes=100_000))


# Arranging


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return make_given(tmp_path, monkeypatch)


def test_what_cannot_be_arranged_is_told_with_the_closest_name(given: Callable[..., Path]) -> None:
    said = refused_to_arrange(InputError, "tiny-imagnet", ".")
    assert said == "there is nothing to arrange for 'tiny-imagnet'; did you mean 'tiny-imagenet'?"


def test_a_disk_that_takes_no_links_is_told_to_be_copied_to(
    given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    said = refused_to_arrange(InputError, "tiny-imagenet", given("tiny-imagenet"), link=True)
    assert "cannot be linked to" in said
    assert said.endswith("(Invalid cross-device link): leave out --link, and it is copied")


def test_a_list_that_is_too_large_is_none_of_the_publishers(
    given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = given("tiny-imagenet")
    monkeypatch.setattr(publisher_files, "_LARGEST", 9)
    size = len(tiny_files()["wnids.txt"])
    assert f"wnids.txt has {size} bytes: it is not the publisher's list" in refused_to_arrange(
        DataError, "tiny-imagenet", source
    )


def test_a_class_that_no_list_has_is_named(given: Callable[..., Path]) -> None:
    source = given("tiny-imagenet", change={"train/n99999999/images/n99999999_0.JPEG": jpeg(1)})
    said = refused_to_arrange(DataError, "tiny-imagenet", source)
    assert said.endswith("/train has the class 'n99999999', which wnids.txt lacks")
    with pytest.raises(MissingError, match=r".* does not exist: expected the publisher's zip archive, or its folder"):
        arrange("chaoyang", "nowhere.zip")


# Folders


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root / "a.png", "photos holds images, but no class folders: expected FOLDER/"),
        (
            lambda root: root / "train" / "a.png",
            "photos/train holds images, but no class folders: expected train/CLASS/*",
        ),
    ],
)
def test_images_outside_of_class_folders_are_told_with_what_is_expected(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    root = tmp_path / "photos"
    for image in (make(root), root / "test" / "x" / "b.png") if "train" in said else (make(root),):
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(image)
    with pytest.raises(DataError) as caught:
        read_tree(root)
    assert said in str(caught.value)


def test_a_file_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("")
    with pytest.raises(InputError, match=r"'notes\.txt' is a file: a data set is one of .*, or a folder: FOLDER/train"):
        find_source("notes.txt")


def test_an_image_that_grows_while_it_is_read_is_named(tmp_path: Path) -> None:
    make_pictures(tmp_path, ("rows",), train=2, test=0)
    names = [f"train/rows/{number}.png" for number in range(2)]
    for name in names:
        Image.new("RGB", (8, 4)).save(tmp_path / name)

    def replace(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        Image.new("RGB", (8, 8)).save(tmp_path / names[1])
        return np.empty(shape, np.uint8)

    with pytest.raises(
        DataError, match=r"1 of 2 images .*1\.png \(it was changed while the images were being read\): replace it"
    ):
        decode.decode(tmp_path, names, allocate=replace)


# Downloads


def test_an_answer_without_the_file_is_told_by_its_number(server: Server, tmp_path: Path) -> None:
    server.status, server.failures = 202, -1
    with pytest.raises(MissingError, match=r"cannot download .*: the server answered 202 Accepted"):
        get(server, tmp_path / "file")


def test_a_server_with_less_than_has_arrived_has_no_more_of_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    server.content = server.content[:1000]
    (tmp_path / "file.part").write_bytes(bytes(2000))
    with pytest.raises(MissingError, match=r"cannot download .*: the server has no more of it; check the network"):
        get(server, tmp_path / "file")
    assert not (tmp_path / "file.part").exists()


# Batches


def augment(**view: object) -> Augment:
    return Augment(View(**view), 8, mean=MEAN, std=STD, seed=0)  # type: ignore[arg-type]


def batch(**parts: torch.Tensor) -> Iterator[torch.Tensor]:
    whole = {
        "pixels": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "sizes": torch.full((2, 2), 8),
        "index": torch.arange(2),
    }
    return iter((whole | parts).values())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"pixels": torch.zeros(2, 3, 8, 8)},
            r"pixels are torch.float32 (2, 3, 8, 8); expected uint8 (B, 3, height, width)",
        ),
        ({"sizes": torch.full((2, 3), 8)}, r"sizes have shape (2, 3); expected (2, 2): height and width of each"),
        (
            {"sizes": torch.tensor([[8, 8], [9, 8]])},
            "image 1 of the batch has the size 9 x 8; expected at least 1 x 1 and at most the stored 8 x 8",
        ),
    ],
)
def test_a_batch_that_does_not_fit_together_says_what_was_expected(parts: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(InputError) as caught:
        augment()(*batch(**parts), epoch=0)
    assert str(caught.value) == said


def test_settings_of_a_view_out_of_range_are_told_with_the_range() -> None:
    with pytest.raises(InputError, match=r"View: fixed must be >= 1 \(got 0\)"):
        augment(fixed=0)
    with pytest.raises(InputError, match="std has 3 numbers; expected 3, for red, green and blue"):
        Augment(View(), 8, mean=(0.5,), std=STD, seed=0)
    with pytest.raises(InputError, match="repeats is 0; expected a whole number of at least 1"):
        Sampler(4, batch_size=2, seed=0, repeats=0)
    with pytest.raises(InputError, match="classes is 0; expected a whole number of at least 1"):
        Mixing(Mix(), classes=0, seed=0)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"labels": torch.zeros(3, dtype=torch.int64)},
            "images (2, 3, 8, 8), labels (3,) and index (2,) do not fit; expected (B, 3, H, W), (B,) or (B, 2), "
            "and (B,)",
        ),
        (
            {"partner_images": torch.zeros(2, 3, 4, 4)},
            "partner_images are (2, 3, 4, 4); expected the images' (2, 3, 8, 8)",
        ),
        ({"partner_labels": torch.zeros(3)}, "partner_labels are (3,); expected the labels' (2,)"),
    ],
)
def test_what_is_mixed_must_be_of_one_shape(parts: dict[str, torch.Tensor], said: str) -> None:
    whole = {
        "images": torch.zeros(2, 3, 8, 8),
        "labels": torch.zeros(2, dtype=torch.int64),
        "partner_images": torch.zeros(2, 3, 8, 8),
        "partner_labels": torch.zeros(2, dtype=torch.int64),
    } | parts
    partners = {name: whole.pop(name) for name in ("partner_images", "partner_labels")}
    with pytest.raises(InputError) as caught:
        Mixing(Mix(mixup=0.8), classes=2, seed=0)(whole["images"], whole["labels"], torch.arange(2), 0, **partners)
    assert str(caught.value) == said
