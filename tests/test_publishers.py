"""Named data sets from their publishers' files: small archives of the published layout, made here."""

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from lgkd.data.catalogue import CATALOGUE, PUBLISHED, PublishedFile
from lgkd.data.images import DataSet
from lgkd.data.sources import find_tree, load_dataset
from lgkd.errors import DataError, InputError, MissingError

SIDE = 4
# The publisher's order is that of the list; in sorted order the numbers become 1, 2, 0.
FINE = ("otter", "pear", "beaver")
TRAIN = (2, 0, 1, 0, 1, 2, 0, 2, 1, 0)
TEST = (1, 1, 0, 2, 0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def records(labels: tuple[int, ...], images: NDArray[np.uint8], coarse: bool) -> bytes:
    """As the publisher describes them, written byte by byte."""
    out = bytearray()
    for place, (label, image) in enumerate(zip(labels, images, strict=True)):
        if coarse:
            out.append((7 * place) % 20)
        out.append(label)
        for channel in range(3):
            for row in range(SIDE):
                for column in range(SIDE):
                    out.append(int(image[row, column, channel]))
    return bytes(out)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_published(path: Path, url: str = "https://data.example/") -> PublishedFile:
    content = path.read_bytes()
    return PublishedFile(path.name, url + path.name, len(content), hashlib.sha256(content).hexdigest())


def members(name: str) -> dict[str, bytes]:
    train, test = pictures(len(TRAIN), 1), pictures(len(TEST), 2)
    names = ("\n".join(FINE) + "\n\n").encode()
    if name == "cifar100":
        folder = "cifar-100-binary/"
        files = {"fine_label_names.txt": names, "coarse_label_names.txt": b"x\n"}
        files |= {"train.bin": records(TRAIN, train, True), "test.bin": records(TEST, test, True)}
    else:
        folder = "cifar-10-batches-bin/"
        files = {"batches.meta.txt": names, "readme.html": b"<p>", "test_batch.bin": records(TEST, test, False)}
        for batch in range(5):
            part = slice(2 * batch, 2 * batch + 2)
            files[f"data_batch_{batch + 1}.bin"] = records(TRAIN[part], train[part], False)
    return {folder + file: content for file, content in files.items()}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a small archive and puts its checksum and counts in the catalogue."""

    def make(name: str = "cifar100", change: dict[str, bytes] | None = None) -> Path:
        file = PUBLISHED[name][0]
        path = tar(tmp_path / "given" / file.name, members(name) | (change or {}))
        info = replace(CATALOGUE[name], classes=len(FINE), train=len(TRAIN), test=len(TEST), image_size=SIDE)
        monkeypatch.setitem(CATALOGUE, name, info)
        monkeypatch.setitem(PUBLISHED, name, (as_published(path),))
        return path

    return make


def image_tree(root: Path) -> Path:
    """The same images as files; their names follow the archive's order."""
    for split, labels, images in (("train", TRAIN, pictures(len(TRAIN), 1)), ("test", TEST, pictures(len(TEST), 2))):
        for place, (label, image) in enumerate(zip(labels, images, strict=True)):
            path = root / split / FINE[label] / f"{place:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def message(error: type[Exception], name: str, **options: Any) -> str:
    with pytest.raises(error) as caught:
        load_dataset(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: DataSet, other: DataSet) -> bool:
    return one.classes == other.classes and all(
        torch.equal(getattr(mine, part), getattr(yours, part))
        for mine, yours in ((one.train, other.train), (one.test, other.test))
        for part in ("pixels", "sizes", "labels")
    )


# CIFAR


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_binary_archive_and_the_image_tree_of_the_same_images_are_the_same(
    tmp_path: Path, made: Callable[..., Path], name: str, use_cache: bool
) -> None:
    archive = load_dataset(name, data_dir=made(name).parent, use_cache=use_cache)
    tree = load_dataset(name, data_dir=image_tree(tmp_path / "tree" / name).parent, use_cache=use_cache)
    assert archive.classes == ("beaver", "otter", "pear")
    assert archive.train.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 3
    assert same(archive, tree)
    assert archive.fingerprint == tree.fingerprint
    assert archive.name == tree.name == name
    assert archive.notes == tree.notes == ()
    assert archive.train.names[3] == "train/otter/00000"
    assert len(set(archive.train.names + archive.test.names)) == 15


def test_within_a_class_images_stand_as_in_the_archive(made: Callable[..., Path]) -> None:
    data = load_dataset("cifar100", data_dir=made().parent)
    expected = pictures(len(TRAIN), 1)[[1, 3, 6, 9]].transpose(0, 3, 1, 2)  # the records of class 0, otter
    assert np.array_equal(data.train.pixels[data.train.labels == 1].numpy(), expected)


@pytest.mark.parametrize("place", ["desk/data", "desk/data/cifar100", "lgkd-home/data/cifar100", "any", "any/cifar100"])
def test_the_archive_is_found_where_a_tree_would_be(tmp_path: Path, made: Callable[..., Path], place: str) -> None:
    path = made()
    (tmp_path / place).mkdir(parents=True)
    path.rename(tmp_path / place / path.name)
    given = {"data_dir": tmp_path / "any"} if place.startswith("any") else {}
    assert len(load_dataset("cifar100", **given).train) == len(TRAIN)


def test_an_image_tree_wins_over_an_archive(tmp_path: Path, made: Callable[..., Path]) -> None:
    path = made()
    tree = image_tree(path.parent / "cifar100")
    (tree / "train/pear/002.png").unlink()
    assert len(load_dataset("cifar100", data_dir=path.parent).train) == len(TRAIN) - 1


def test_decoded_once_it_needs_no_archive_and_shows_no_progress(made: Callable[..., Path]) -> None:
    seen: list[tuple[int, int]] = []
    path = made()
    first = load_dataset("cifar100", data_dir=path.parent, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (15, 15)
    path.unlink()
    seen.clear()
    again = load_dataset("cifar100", progress=lambda *counts: seen.append(counts))
    assert same(first, again)
    assert again.train.names == first.train.names
    assert again.fingerprint == first.fingerprint
    assert seen == []


def test_another_archive_is_decoded_anew(made: Callable[..., Path]) -> None:
    before = load_dataset("cifar100", data_dir=made().parent)
    changed = records(TRAIN, pictures(len(TRAIN), 9), True)
    after = load_dataset("cifar100", data_dir=made(change={"cifar-100-binary/train.bin": changed}).parent)
    assert before.fingerprint != after.fingerprint


def test_a_file_that_is_not_the_published_one_is_refused_and_stays(made: Callable[..., Path]) -> None:
    path = made()
    path.write_bytes(path.read_bytes()[:-8] + b"changed!")
    text = message(DataError, "cifar100", data_dir=path.parent)
    assert text.startswith(f"{path} has SHA-256 ")
    path.write_bytes(b"cut")
    assert message(DataError, "cifar100", data_dir=path.parent).startswith(f"{path} has 3 bytes, the published file ")
    assert path.exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("train.bin", records(TRAIN, pictures(10, 1), True)[:-1], "train.bin in PATH has 499 bytes, expected 500"),
        ("train.bin", bytes(501), "cifar-100-binary/train.bin in PATH has 501 bytes, expected at most 500"),
        ("test.bin", b"\x00\x03" + bytes(48) + bytes(200), "PATH has the label 3, expected 0 to 2"),
        ("fine_label_names.txt", b"a\nb\n", "PATH names 2 classes, cifar100 has 3"),
        ("fine_label_names.txt", b"a\nb\nb\n", "PATH names 2 classes, cifar100 has 3"),
        ("fine_label_names.txt", b"a\n" * 70_000, "cifar-100-binary/fine_label_names.txt in PATH has 140,000 bytes"),
    ],
)
def test_an_archive_of_another_layout_is_refused(
    made: Callable[..., Path], file: str, content: bytes, expected: str
) -> None:
    path = made(change={f"cifar-100-binary/{file}": content})
    assert message(DataError, "cifar100", data_dir=path.parent).startswith(expected.replace("PATH", str(path)))


def test_scaling_down_is_refused_and_a_larger_limit_changes_nothing(made: Callable[..., Path]) -> None:
    folder = made().parent
    text = message(InputError, "cifar100", data_dir=folder, max_side=2)
    assert text == "max_side is 2, but the images of cifar100 are 4 x 4: leave it out"
    whole = load_dataset("cifar100", data_dir=folder)
    assert same(whole, load_dataset("cifar100", data_dir=folder, max_side=64))


def test_what_needs_a_tree_says_so_beside_an_archive(made: Callable[..., Path]) -> None:
    with pytest.raises(MissingError, match=r"^cifar100 is not here as an image tree; looked for folders train and"):
        find_tree("cifar100", data_dir=made().parent)


# Flowers

# One class number for each image, and the images of the three splits.
LABELS = (2, 1, 2, 1, 2, 1, 1, 2)
SPLITS = {"trnid": (2, 1), "valid": (3, 4), "tstid": (8, 5, 6, 7)}


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (30 * number, 5, 200)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(labels: Any = LABELS, splits: dict[str, Any] | None = None, images: int = 8) -> Path:
        folder = tmp_path / "given"
        every = {f"jpg/image_{number:05d}.jpg": jpeg(number) for number in range(1, images + 1)}
        paths = [tar(folder / "102flowers.tgz", every), folder / "imagelabels.mat", folder / "setid.mat"]
        savemat(paths[1], {"labels": labels if isinstance(labels, np.ndarray) else np.array([labels], np.uint8)})
        parts = SPLITS | (splits or {})
        savemat(paths[2], {key: np.array([ids], np.uint16) for key, ids in parts.items()}, do_compression=True)
        info = replace(CATALOGUE["flowers102"], classes=2, train=2, test=4)
        monkeypatch.setitem(CATALOGUE, "flowers102", info)
        monkeypatch.setitem(PUBLISHED, "flowers102", tuple(as_published(path) for path in paths))
        return folder

    return make


def test_flowers_come_in_the_official_splits_under_their_numbers(tmp_path: Path, flowers: Callable[..., Path]) -> None:
    data = load_dataset("flowers102", data_dir=flowers())
    root = tmp_path / "lgkd-home/data/flowers102/images"
    assert data.classes == ("class_001", "class_002")
    assert data.train.names == ("train/class_001/image_00002.jpg", "train/class_002/image_00001.jpg")
    assert [name.split("/", 1)[1] for name in data.test.names] == [
        "class_001/image_00006.jpg",
        "class_001/image_00007.jpg",
        "class_002/image_00005.jpg",
        "class_002/image_00008.jpg",
    ]
    assert (root / "val/class_002/image_00003.jpg").read_bytes() == jpeg(3)
    assert data.notes == (f"not used: val, beside train in {root}",)
    assert data.name == "flowers102"
    assert sorted(path.name for path in root.parent.iterdir()) == ["images"]


def test_flowers_once_arranged_need_no_archive(flowers: Callable[..., Path]) -> None:
    folder = flowers()
    first = load_dataset("flowers102", data_dir=folder)
    for path in folder.iterdir():
        path.unlink()
    assert same(first, load_dataset("flowers102"))
    assert find_tree("flowers102")[1].classes == first.classes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": (2, 1, 3, 1, 2, 1, 1, 2)}, "imagelabels.mat has labels outside of 1 to 2"),
        ({"labels": np.array([["a", 1]], object)}, "imagelabels.mat has no array of numbers called 'labels'"),
        ({"labels": np.full((1, 8), 1.5)}, "'labels' in "),
        ({"splits": {"valid": (3, 3)}}, "setid.mat does not split the 8 images of "),
        ({"splits": {"valid": (3, 9)}}, "setid.mat does not split the 8 images of "),
        ({"images": 7}, "102flowers.tgz lacks jpg/image_00008.jpg"),
    ],
)
def test_flower_files_that_do_not_fit_together_leave_nothing_behind(
    tmp_path: Path, flowers: Callable[..., Path], change: dict[str, Any], expected: str
) -> None:
    assert expected in message(DataError, "flowers102", data_dir=flowers(**change))
    store = tmp_path / "lgkd-home/data/flowers102"
    assert not store.exists() or list(store.iterdir()) == []


def test_a_broken_matlab_file_is_named(flowers: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flowers()
    (folder / "setid.mat").write_bytes(b"no MATLAB file" * 20)
    files = PUBLISHED["flowers102"]
    monkeypatch.setitem(PUBLISHED, "flowers102", (*files[:2], as_published(folder / "setid.mat")))
    assert f"{folder}/setid.mat cannot be read as a MATLAB file (" in message(DataError, "flowers102", data_dir=folder)


# Downloading


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """Serves the folder of made files; from then on a data set's addresses lead there. Gives what was asked for."""
    monkeypatch.delenv("LGKD_OFFLINE")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            asked.append(self.path) if self.command == "GET" else None

    (tmp_path / "given").mkdir(exist_ok=True)
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "given")))
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def lead(name: str) -> list[str]:
        url = f"http://127.0.0.1:{web.server_port}/"
        files = tuple(file._replace(url=url + file.name) for file in PUBLISHED[name])
        monkeypatch.setitem(PUBLISHED, name, files)
        return asked

    yield lead
    web.shutdown()
    thread.join()
    web.server_close()


def test_what_is_nowhere_is_downloaded_into_the_store_once(
    tmp_path: Path, made: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    path = made()
    asked = server("cifar100")
    seen: list[tuple[int, int]] = []
    first = load_dataset("cifar100", progress=lambda *counts: seen.append(counts))
    assert (tmp_path / "lgkd-home/data/cifar100" / path.name).read_bytes() == path.read_bytes()
    assert seen == [(path.stat().st_size, path.stat().st_size), (10, 15), (15, 15)]
    assert same(first, load_dataset("cifar100", use_cache=False))
    assert len(asked) == 1


def test_flowers_are_downloaded_in_three_files(
    flowers: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    flowers()
    asked = server("flowers102")
    assert len(load_dataset("flowers102").test) == 4
    assert sorted(asked) == ["/102flowers.tgz", "/imagelabels.mat", "/setid.mat"]


def test_a_data_dir_that_is_not_there_is_rather_mistyped_and_nothing_is_downloaded(
    tmp_path: Path, made: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    made()
    asked = server("cifar100")
    text = message(MissingError, "cifar100", data_dir=tmp_path / "gone")
    assert text.endswith(f"or correct the folder: {tmp_path}/gone does not exist")
    assert asked == []


def test_offline_a_set_that_is_nowhere_names_places_address_and_way_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    by_environment = [message(MissingError, name) for name in PUBLISHED]
    monkeypatch.delenv("LGKD_OFFLINE")
    assert by_environment == [message(MissingError, name, offline=True) for name in PUBLISHED]
    for name, text in zip(PUBLISHED, by_environment, strict=True):
        store = tmp_path / "lgkd-home/data" / name
        assert text.startswith(f"{name} is not here; looked for folders train and test, {PUBLISHED[name][0].name}")
        assert all(file.url in text for file in PUBLISHED[name])
        assert f"{tmp_path}/desk/data/{name}, {tmp_path}/desk/data, {store}; put its images at" in text
        assert f"in {store}, or let lgkd download" in text


def test_the_catalogue_and_the_published_files_fit_together() -> None:
    assert set(PUBLISHED) <= set(CATALOGUE)
    for files in PUBLISHED.values():
        for file in files:
            assert file.url.startswith("https://")
            assert file.url.endswith(f"/{file.name}")
            assert len(bytes.fromhex(file.sha256)) == 32
