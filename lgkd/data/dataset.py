"""Hold decoded images: one split as one tensor, and the two splits of a data set."""

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from lgkd._internal.blocks import CheckedRows
from lgkd.data.channels import with_channels
from lgkd.data.greys import UNKNOWN, Greys
from lgkd.data.groups import Groups
from lgkd.errors import DataError

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Images:
    """Hold one decoded split: every image in one uint8 tensor.

    Raises:
        DataError: the four parts do not fit together.
    """

    pixels: Tensor
    """uint8 (N,3,S,T), RGB. May be mapped from a file: pages are read when they are touched."""
    sizes: Tensor
    """int32 (N,2): height and width of the part of the S x T canvas that the image fills, in its
    upper left corner. The rest of the canvas repeats the image's border."""
    labels: Tensor
    """Class numbers, int64 (N,); of several labels an image float32 (N,K), 1 for each class of the image, else 0."""
    names: tuple[str, ...]
    """Such as 'train/apple/0001.png', for messages."""
    rows: CheckedRows | None = None
    """Compares pixels that are mapped from a file with the written ones, before they are first read."""
    first: int = 0
    """The place of the first image among `rows`."""

    def __post_init__(self) -> None:
        count = len(self.names)
        several = self.multi_label
        parts = (("pixels", self.pixels, torch.uint8, (count, 3, *self.pixels.shape[2:4])),
                 ("sizes", self.sizes, torch.int32, (count, 2)),
                 ("labels", self.labels, torch.float32 if several else torch.int64,
                  (count, self.labels.shape[1]) if several else (count,)))  # fmt: skip
        for name, tensor, dtype, shape in parts:
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise DataError(
                    f"{name} of {count} images is {tensor.dtype} {tuple(tensor.shape)}, "
                    f"expected {dtype} {shape}: give every part one entry an image"
                )

    def __len__(self) -> int:
        return len(self.names)

    def check(self, index: Tensor | None = None) -> None:
        """Compare the pixels at `index`, int64 (M,), or all, with the written ones; call it before they are read.

        Raises:
            InputError: the file that they are mapped from is damaged.
        """
        if self.rows is not None:
            places = torch.arange(len(self)) if index is None else index.cpu()
            self.rows.check(self.first + places.numpy())

    @property
    def multi_label(self) -> bool:
        """Return true if an image may have several labels, or none."""
        return self.labels.ndim == 2

    @property
    def class_numbers(self) -> Tensor:
        """Return the class of every label of every image, in order, int64; `labels` itself for one label an image."""
        return self.labels.nonzero()[:, 1] if self.multi_label else self.labels

    @property
    def label_keys(self) -> list[Any]:
        """Return a hashable value for every image, equal for equal labels: its class, or the tuple of its classes."""
        rows: list[Any] = self.labels.tolist()
        if not self.multi_label:
            return rows
        return [tuple(place for place, one in enumerate(row) if one) for row in rows]

    @property
    def largest_class(self) -> float:
        """Return the share of the images that are of the most frequent class."""
        return float(torch.bincount(self.class_numbers, minlength=1).max()) / len(self)

    @property
    def seen_classes(self) -> int:
        """Return the number of classes that have images."""
        return len(torch.unique(self.class_numbers))

    def take(self, index: Tensor) -> "Images":
        """Copy the images at `index`, int64 (M,), in that order, into memory."""
        self.check(index)
        return Images(
            pixels=self.pixels[index],
            sizes=self.sizes[index],
            labels=self.labels[index],
            names=tuple(self.names[place] for place in index.tolist()),
        )


@dataclass(frozen=True, eq=False)
class DataSet:
    """Hold two decoded splits with the same classes and the same canvas."""

    name: str
    """'cifar100', or the folder's name."""
    classes: tuple[str, ...]
    """Names in sorted order; a label is a place in this list, or a column of the labels."""
    train: Images
    test: Images
    """Split to report accuracy on."""
    fingerprint: str
    """Hex digits; equal for equal images, labels and classes in the same order, see `fingerprint_of`."""
    notes: tuple[str, ...]
    """Notes for the user, such as the origin of a missing test split."""
    greys: Greys = UNKNOWN
    """Scale of greys of more than 8 bits."""
    flat: bool = False
    """Whether the test split was held out of one folder, because it has none of its own."""
    val: Images | None = None
    """Split that selects the epoch; None where none is given."""
    groups: Groups | None = None
    """Groups of the images, where the data set has them."""

    @property
    def multi_label(self) -> bool:
        """Return true if an image may have several labels, or none."""
        return self.train.multi_label

    def statistics(self, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Compute mean and standard deviation of each channel (red, green, blue; or grey) of the train split.

        In units of [0, 1], over all pixels that belong to an image: the repeated border of the canvas does
        not count. Values are counted before anything is divided, so the result is exact and does not depend
        on how the images are grouped.
        """
        counts = _value_counts(self.train, channels)
        return _moments(counts)


def fingerprint_of(classes: tuple[str, ...], *splits: Images) -> str:
    """Compute SHA-256 over class names and, for each split, shape, sizes, labels and pixels: 64 hex digits.

    File names, folders and formats do not enter: the same images as PNG or BMP, here or elsewhere, have the
    same fingerprint. The order of the images does enter, because draws go by place.
    """
    digest = sha256(json.dumps(classes).encode())
    for split in splits:
        digest.update(json.dumps(list(split.pixels.shape)).encode())
        digest.update(split.sizes.numpy().astype("<i4", order="C").data)
        if split.multi_label:
            digest.update(b"several labels an image")
        digest.update(split.labels.numpy().astype("<i8", order="C").data)
        digest.update(split.pixels.contiguous().numpy().data)
    return digest.hexdigest()


def _value_counts(images: Images, channels: int) -> Tensor:
    """Count the 256 values of each channel in the valid areas: int64 (channels, 256)."""
    images.check()
    height, width = images.pixels.shape[2:]
    rows = torch.arange(height)[:, None]
    columns = torch.arange(width)[None, :]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    chunk = max(1, _CHUNK_BYTES // (3 * height * width))
    for pixels, sizes in zip(*(torch.split(part, chunk) for part in (images.pixels, images.sizes)), strict=True):
        heights_B11, widths_B11 = sizes[:, 0, None, None], sizes[:, 1, None, None]
        pixels = with_channels(pixels, channels)
        full = bool((heights_B11 == height).all() and (widths_B11 == width).all())
        for channel in range(channels):
            plane_BST = pixels[:, channel]
            values = plane_BST if full else plane_BST[(rows < heights_B11) & (columns < widths_B11)]
            counts[channel] += torch.bincount(values.reshape(-1), minlength=256)
    return counts


def _moments(counts_CV: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    means, deviations = [], []
    for counts in counts_CV.tolist():  # Python integers: sums of squares cannot overflow or round
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        means.append(first / total / 255)
        deviations.append(math.sqrt((second * total - first * first) / (total * total)) / 255)
    return tuple(means), tuple(deviations)
