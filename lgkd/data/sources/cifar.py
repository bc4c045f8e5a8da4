"""Read CIFAR-10 and CIFAR-100 from the publisher's binary archives.

Nothing is unpickled: the binary records are bytes at fixed places. Classes are sorted by name, as from an image tree.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lgkd.data.catalogue import DataSetInfo, published
from lgkd.data.dataset import DataSet, Images, fingerprint_of
from lgkd.data.decode import Allocate, Progress, in_memory
from lgkd.data.decoded_cache import Stored, kept, published_key
from lgkd.data.sources.archives import read_tar
from lgkd.data.sources.source import LoadRequest, NamedSource
from lgkd.data.splits import cut_splits, guarded
from lgkd.errors import DataError, InputError

_SLACK = 4 * 2**20
_CHUNK = 4096


class CifarLayout(NamedTuple):
    """Describe the layout of a binary archive."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    """The text file with a class name in each line."""
    head: int
    """Label bytes before the pixels of a record; the last of them is the label."""


CIFAR = {
    "cifar10": CifarLayout(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        head=1,
    ),
    # Two label bytes: one of 20 coarse classes, then one of 100 fine ones.
    "cifar100": CifarLayout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", head=2),
}


class Decoded(NamedTuple):
    """Hold the images of both splits, train before test, each sorted by class and, within it, as in the archive."""

    pixels: NDArray[np.uint8]
    """(N,3,S,S)."""
    classes: tuple[str, ...]
    train: list[int]
    """Images of each class in the training split."""
    test: list[int]


def read_cifar(info: DataSetInfo, archive: Path, allocate: Allocate, progress: Progress | None = None) -> Decoded:
    """Read CIFAR-10 or CIFAR-100 from the publisher's binary archive.

    A record is one label byte (CIFAR-10), or a coarse and a fine one (CIFAR-100), and the pixels: all red ones row by
    row, then all green ones, then all blue ones.

    Args:
        info: number of classes and images, and the side of an image.
        archive: a tar archive, its checksum verified.
        allocate: makes the array of pixels.
        progress: called with (done, total) images.

    Raises:
        DataError: the archive has another layout.
    """
    layout = CIFAR[info.name]
    record = layout.head + 3 * info.image_size**2
    batch = info.train // len(layout.train) * record
    sizes = dict.fromkeys(layout.train, batch) | {layout.test: info.test * record, layout.names: 2**16}
    wanted = {f"{layout.folder}/{name}": size for name, size in sizes.items()}
    parts = dict(read_tar(archive, wanted, max_bytes=sum(wanted.values()) + _SLACK, max_members=100))
    for name in (*layout.train, layout.test):
        if len(parts[f"{layout.folder}/{name}"]) != sizes[name]:
            raise DataError(
                f"{name} in {archive} has {len(parts[f'{layout.folder}/{name}']):,} bytes, expected {sizes[name]:,}: "
                f"it is not the published archive"
            )
    classes, rank = _class_names(parts[f"{layout.folder}/{layout.names}"], info, archive)
    pixels = allocate((info.train + info.test, 3, info.image_size, info.image_size))
    train = b"".join(parts.pop(f"{layout.folder}/{name}") for name in layout.train)
    counts: list[list[int]] = []
    done = 0
    for content in (train, parts[f"{layout.folder}/{layout.test}"]):
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        numbers = records[:, layout.head - 1]
        if int(numbers.max(initial=0)) >= info.classes:
            raise DataError(f"{archive} has the label {numbers.max()}, expected 0 to {info.classes - 1}")
        labels = rank[numbers]
        order = np.argsort(labels, kind="stable")
        for start in range(0, len(order), _CHUNK):
            some = records[order[start : start + _CHUNK], layout.head :]
            pixels[done : done + len(some)] = some.reshape(-1, 3, info.image_size, info.image_size)
            done += len(some)
            if progress is not None:
                progress(done, len(pixels))
        counts.append(np.bincount(labels, minlength=info.classes).tolist())
    return Decoded(pixels, classes, *counts)


def _class_names(text: bytes, info: DataSetInfo, archive: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names in sorted order, and the place in that order of every published number."""
    names = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(set(names)) != info.classes or len(names) != info.classes:
        raise DataError(
            f"{archive} names {len(set(names))} classes, {info.name} has {info.classes}: "
            "it is not the published archive"
        )
    classes = tuple(sorted(names))
    return classes, np.array([classes.index(name) for name in names], np.int64)


class Cifar(NamedSource):
    """Decode CIFAR from its archive into the user's store of decoded images."""

    def load(self, info: DataSetInfo, request: LoadRequest) -> DataSet:
        """Decode the archive: in each split the images are sorted by class and, within a class, as in the archive."""
        if request.max_side is not None and request.max_side < info.image_size:
            side = f"{info.image_size} x {info.image_size}"
            raise InputError(f"max_side is {request.max_side}, but the images of {info.name} are {side}: leave it out")
        (archive,) = published(info)

        def splits(
            pixels: NDArray[np.uint8], sizes: NDArray[np.int32], classes: Sequence[str], counts: Sequence[Sequence[int]]
        ) -> list[Images]:
            labels = torch.cat([torch.arange(len(classes)).repeat_interleave(torch.tensor(part)) for part in counts])
            names = tuple(
                f"{split}/{label}/{place:05d}"
                for split, part in zip(("train", "test"), counts, strict=True)
                for label, count in zip(classes, part, strict=True)
                for place in range(count)
            )
            return cut_splits(pixels, sizes, labels, names, [sum(part) for part in counts])

        def make(allocate: Allocate) -> Stored:
            pixels, classes, *counts = read_cifar(info, request.find(archive), allocate, request.progress)
            sizes = np.full((len(pixels), 2), info.image_size, np.int32)
            fingerprint = fingerprint_of(classes, *splits(pixels, sizes, classes, counts))
            return Stored(pixels, sizes, fingerprint, {"classes": list(classes), "counts": counts})

        key = published_key(info.name, [archive.sha256])
        stored = kept(key, info.train + info.test, make) if request.use_cache else make(in_memory)
        about = stored.about or {}
        train, test = guarded(splits(stored.pixels, stored.sizes, about["classes"], about["counts"]), stored)
        return DataSet(info.name, tuple(about["classes"]), train, test, stored.fingerprint, ())


SOURCE: NamedSource = Cifar()
