"""Lay out Oxford Flowers-102 as an image tree from the publisher's archive and MATLAB files.

Nothing is unpickled: of a MATLAB file only arrays of numbers are taken.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd.data.catalogue import DataSetInfo, PublishedFile, published
from lgkd.data.locations import arranged
from lgkd.data.sources.archives import read_tar
from lgkd.data.sources.arrange import whole
from lgkd.data.sources.source import Find, LoadRequest, NamedSource
from lgkd.errors import DataError, InputError

_SLACK = 4 * 2**20


def arrange_flowers(info: DataSetInfo, files: tuple[PublishedFile, ...], find: Find, folder: Path) -> Path:
    """Make the tree FOLDER/{train,val,test}/class_NNN/image_NNNNN.jpg of Flowers-102, by the official splits.

    The publisher numbers the classes and does not name them, so they are called class_001 and so on by his numbers.
    The tree is complete or absent. The JPEGs are written unchanged.

    Args:
        info: number of classes.
        files: the archive of images, the labels, the splits.
        find: returns the path of each.
        folder: of the tree; absent.

    Raises:
        DataError: the files do not fit together.
    """
    images, labels, splits = (find(file) for file in files)
    places = _flower_places(info, labels, splits)
    try:
        with whole(folder, "make room, or choose another store with LGKD_HOME") as scratch:
            for part in {place.rpartition("/")[0] for place in places.values()}:
                (scratch / part).mkdir(parents=True)
            # JPEGs do not shrink in an archive, so one that unpacks to much more than its size is not published.
            limit = 4 * files[0].bytes + 16 * _SLACK
            wanted = dict.fromkeys(places, 4 * _SLACK)
            for name, content in read_tar(images, wanted, max_bytes=limit, max_members=2 * len(places) + 100):
                (scratch / places[name]).write_bytes(content)
    except InputError:
        if not folder.is_dir():  # else another process was faster, and has made the same tree
            raise
    return folder


def _flower_places(info: DataSetInfo, labels: Path, splits: Path) -> dict[str, str]:
    """Map every image's name in the archive to its path in the tree."""
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
    """Read arrays of whole numbers from a MATLAB file, flat.

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


class Flowers(NamedSource):
    """Lay out Flowers-102 in the user's store, once."""

    def load(self, info: DataSetInfo, request: LoadRequest) -> None:
        """Make the image tree; see `arrange_flowers`."""
        arrange_flowers(info, published(info), request.find, arranged(info))


SOURCE: NamedSource = Flowers()
