"""Load extra training images of a data set's classes from a separate folder, such as generated ones."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from lgkd.data.dataset import DataSet, Images, fingerprint_of
from lgkd.data.decode import Allocate, Progress, decode
from lgkd.data.decoded_cache import Stored, cache_key, kept
from lgkd.data.greys import Greys, Scale
from lgkd.data.image_folder import read_classes


@dataclass(frozen=True)
class Extra:
    """Hold images that make up a share of every batch.

    Attributes:
        images: decoded; labels are those of the data set.
        share: of a batch, between 0 and 1.
        folder: of their files.
        fingerprint: of the images and their labels.
        notes: for the user.
    """

    images: Images
    share: float
    folder: Path
    fingerprint: str
    notes: tuple[str, ...]


def load_extra(folder: str | Path, dataset: DataSet, *, share: float, progress: Progress | None = None) -> Extra:
    """Load the images of FOLDER/CLASS/*, decoded, and keep them in the user's store.

    Images that are larger than the data set's own are scaled down to their size; greys of more than 8 bits are scaled
    as its own.

    Args:
        folder: holds a folder of images for every class of the data set, or for some.
        dataset: that has their classes.
        share: of a batch.
        progress: called with (done, total) images while they are decoded.

    Raises:
        DataError: a class is not the data set's, a class folder is empty, or an image is broken.
    """
    root = Path(folder).expanduser()
    tree = read_classes(root, dataset.classes)
    names = tuple(file.path for file in tree.train)
    labels = torch.tensor([file.label for file in tree.train], dtype=torch.int64)
    side = max(dataset.train.pixels.shape[2:])

    found, own_labels = torch.unique(labels, return_inverse=True)
    own_classes = tuple(dataset.classes[label] for label in found.tolist())

    def make(allocate: Allocate) -> Stored:
        scale = Scale(0, dataset.greys)
        pixels, sizes = decode(root, names, max_side=side, allocate=allocate, progress=progress, scale=scale)
        # By the folder's own classes: the stored images may serve another data set, which numbers them otherwise.
        own = Images(torch.from_numpy(pixels), torch.from_numpy(sizes), own_labels, names)
        return Stored(pixels, sizes, fingerprint_of(own_classes, own), scale.about())

    more = () if dataset.greys == Greys() else (dataset.greys.kept(),)
    stored = kept(cache_key(root, side, (tree.train,), *more), len(names), make)
    images = Images(torch.from_numpy(stored.pixels), torch.from_numpy(stored.sizes), labels, names, stored.rows)
    absent = len(dataset.classes) - len(own_classes)
    said = (stored.about or {}).get("said", ())
    notes = [*tree.notes, *said, f"{len(names):,} extra images in {root} make up {share:.0%} of every batch"]
    if absent:
        notes.append(f"{root} has no images of {absent} of the {len(dataset.classes)} classes")
    return Extra(images, share, root, stored.fingerprint, tuple(notes))


def fingerprint_with(dataset: str, extra: str) -> str:
    """Compute the fingerprint of a data set and its extra images together: 64 hex digits."""
    return sha256(f"{dataset}+{extra}".encode()).hexdigest()
