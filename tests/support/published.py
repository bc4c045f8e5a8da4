"""Small archives of the published layouts, and a server that has them."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from lgkd.data.dataset import DataSet

SIDE = 4
# The publisher's order is that of the list; in sorted order the numbers become 1, 2, 0.
FINE = ("otter", "pear", "beaver")
TRAIN = (2, 0, 1, 0, 1, 2, 0, 2, 1, 0)
TEST = (1, 1, 0, 2, 0)

# One class number for each image, and the images of the three splits.
LABELS = (2, 1, 2, 1, 2, 1, 1, 2)
SPLITS = {"trnid": (2, 1), "valid": (3, 4), "tstid": (8, 5, 6, 7)}


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


def make_cifar(
    folder: Path, patch: pytest.MonkeyPatch, name: str = "cifar100", change: dict[str, bytes] | None = None
) -> Path:
    """Makes a small archive and puts its checksum and counts in the catalogue."""
    path = tar(folder / PUBLISHED[name][0].name, members(name) | (change or {}))
    info = replace(CATALOGUE[name], classes=len(FINE), train=len(TRAIN), test=len(TEST), image_size=SIDE)
    patch.setitem(CATALOGUE, name, info)
    patch.setitem(PUBLISHED, name, (as_published(path),))
    return path


def image_tree(root: Path) -> Path:
    """The same images as files; their names follow the archive's order."""
    for split, labels, images in (("train", TRAIN, pictures(len(TRAIN), 1)), ("test", TEST, pictures(len(TEST), 2))):
        for place, (label, image) in enumerate(zip(labels, images, strict=True)):
            path = root / split / FINE[label] / f"{place:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10 + number, 8), (30 * number, 5, 200)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def make_flowers(
    folder: Path,
    patch: pytest.MonkeyPatch,
    labels: Any = LABELS,
    splits: dict[str, Any] | None = None,
    images: int = 8,
) -> Path:
    """Makes the three files of Flowers-102, with two classes, and puts their checksums in the catalogue."""
    every = {f"jpg/image_{number:05d}.jpg": jpeg(number) for number in range(1, images + 1)}
    paths = [tar(folder / "102flowers.tgz", every), folder / "imagelabels.mat", folder / "setid.mat"]
    savemat(paths[1], {"labels": labels if isinstance(labels, np.ndarray) else np.array([labels], np.uint8)})
    parts = SPLITS | (splits or {})
    savemat(paths[2], {key: np.array([ids], np.uint16) for key, ids in parts.items()}, do_compression=True)
    for name, count in (("flowers102", 2), ("flowers102-trainval", 4)):
        patch.setitem(CATALOGUE, name, replace(CATALOGUE[name], classes=2, train=count, test=4))
    patch.setitem(PUBLISHED, "flowers102", tuple(as_published(path) for path in paths))
    return folder


def same(one: DataSet, other: DataSet) -> bool:
    return one.classes == other.classes and all(
        torch.equal(getattr(mine, part), getattr(yours, part))
        for mine, yours in ((one.train, other.train), (one.test, other.test))
        for part in ("pixels", "sizes", "labels")
    )


@contextmanager
def served(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """Serves a folder; the function that it gives leads a data set's addresses there, and tells what is asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            asked.append(self.path) if self.command == "GET" else None

    folder.mkdir(exist_ok=True)
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def lead(name: str) -> list[str]:
        url = f"http://127.0.0.1:{web.server_port}/"
        files = tuple(file._replace(url=url + file.name) for file in PUBLISHED[name])
        patch.setitem(PUBLISHED, name, files)
        return asked

    yield lead
    web.shutdown()
    thread.join()
    web.server_close()


class Evil:
    """Leaves a file behind as soon as it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)
