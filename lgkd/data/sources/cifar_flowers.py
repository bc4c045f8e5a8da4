"""Named data sets from the files of their publishers: CIFAR from its binary archives, Flowers-102 as an image tree.

Nothing is unpickled: CIFAR's binary records are bytes at fixed places, and of a MATLAB file only arrays of numbers
are taken. Classes come out in sorted order of their names, as from an image tree.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd.data.catalogue import DataSetInfo, PublishedFile
from lgkd.data.decode import Allocate, Progress
from lgkd.data.sources.archives import read_tar
from lgkd.data.sources.arrange import whole
from lgkd.errors import DataError, InputError

Find = Callable[[PublishedFile], Path]
"""Where a published file lies, its checksum verified; raises where it cannot be had."""

_SLACK = 4 * 2**20
_CHUNK = 4096


class CifarLayout(NamedTuple):
    """What lies where in a binary archive."""

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
    """The images of both splits, train before test, each sorted by class and, within it, as in the archive."""

    pixels: NDArray[np.uint8]
    """(N,3,S,S)."""
    classes: tuple[str, ...]
    train: list[int]
    """Images of each class in the training split."""
    test: list[int]


def read_cifar(info: DataSetInfo, archive: Path, allocate: Allocate, progress: Progress | None = None) -> Decoded:
    """CIFAR-10 or CIFAR-100 from the publisher's binary archive.

    A record is one label byte (CIFAR-10), or a coarse and a fine one (CIFAR-100), and the pixels: all red ones row by
    row, then all green ones, then all blue ones.

    Args:
        info: how many classes and images there are, and the side of an image.
        archive: a tar archive, its checksum verified.
        allocate: makes the array of pixels.
        progress: called with (done, total) images.

    Raises:
        DataError: the archive is not laid out like that.
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
    """The names in sorted order, and the place in that order of every published number."""
    names = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(set(names)) != info.classes or len(names) != info.classes:
        raise DataError(
            f"{archive} names {len(set(names))} classes, {info.name} has {info.classes}: "
            "it is not the published archive"
        )
    classes = tuple(sorted(names))
    return classes, np.array([classes.index(name) for name in names], np.int64)


def arrange_flowers(info: DataSetInfo, files: tuple[PublishedFile, ...], find: Find, folder: Path) -> Path:
    """Flowers-102 as an image tree: FOLDER/{train,val,test}/class_NNN/image_NNNNN.jpg, by the official splits.

    The publisher numbers the classes and does not name them, so they are called class_001 and so on by his numbers.
    The tree is there whole or not at all. The JPEGs are written as they came.

    Args:
        info: how many classes there are.
        files: the archive of images, the labels, the splits.
        find: gives each of them.
        folder: where the tree goes; nothing may be there.

    Raises:
        DataError: the files do not fit together.
    """
    images, labels, splits = (find(file) for file in files)
    places = _flower_places(info, labels, splits)
    try:
        with whole(folder, "make room, or choose another store with LGKD_HOME") as scratch:
            for part in {place.rpartition("/")[0] for place in places.values()}:
                (scratch / part).mkdir(parents=True)
            # JPEGs do not shrink in an archive, so one that holds much more than it weighs is none of them.
            limit = 4 * files[0].bytes + 16 * _SLACK
            wanted = dict.fromkeys(places, 4 * _SLACK)
            for name, content in read_tar(images, wanted, max_bytes=limit, max_members=2 * len(places) + 100):
                (scratch / places[name]).write_bytes(content)
    except InputError:
        if not folder.is_dir():  # else another process was faster, and has made the same
            raise
    return folder


def _flower_places(info: DataSetInfo, labels: Path, splits: Path) -> dict[str, str]:
    """For every image's name in the archive, its path in the tree."""
    (numbers,) = _numbers(labels, ("labels",))
    parts = dict(zip(("train", "val", "test"), _numbers(splits, ("trnid", "valid", "tstid")), strict=True))
    if not len(numbers) or numbers.min() < 1 or numbers.max() > info.classes:
        raise DataError(f"{labels} has labels outside of 1 to {info.classes}: it is not the published file")
    every = np.concatenate(list(parts.values()))
    if sorted(every.tolist()) != list(range(1, len(numbers) + 1)):
        raise DataError(
            f"{splits} does not split the {len(numbers):,} images of {labels} into three parts: "
            "they are not the published files"
        )
    return {
        f"jpg/image_{number:05d}.jpg": f"{part}/class_{numbers[number - 1]:03d}/image_{number:05d}.jpg"
        for part, ids in parts.items()
        for number in ids.tolist()
    }


def _numbers(path: Path, names: tuple[str, ...]) -> list[NDArray[np.int64]]:
    """Arrays of whole numbers from a MATLAB file, flat.

    Raises:
        DataError: it cannot be read, or holds anything else under these names.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # scipy's reader raises anything on a broken file
        raise_if_out_of_memory(error)
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a MATLAB file ({reason}): remove it, or put the right one"
        ) from error
    arrays = []
    for name in names:
        array = content.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise DataError(f"{path} has no array of numbers called {name!r}: it is not the published file")
        whole = array.ravel().astype(np.int64)
        if not np.array_equal(whole, array.ravel()):
            raise DataError(f"{name!r} in {path} has numbers that are not whole: it is not the published file")
        arrays.append(whole)
    return arrays
