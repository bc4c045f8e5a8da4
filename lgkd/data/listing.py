"""Hold the listing of a data set: its images with labels and splits, before anything is decoded. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from lgkd.errors import DataError

Fault = Callable[[str], None]
"""Called with one sentence on a fault that prevents a training on the images; raises, or returns to continue."""

Read = Callable[[str], bytes]
"""Returns the encoded image of a path in a listing."""


def refuse(sentence: str) -> NoReturn:
    """Raise at the first fault: the `Fault` of a training."""
    raise DataError(sentence)


class File(NamedTuple):
    """Describe one listed image."""

    path: str
    """Below the listing's root, with forward slashes; where images are not files, a name such as train/0000012."""
    label: int
    size: int
    """Bytes; with `mtime_ns` it shows whether the image has changed since it was decoded."""
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """List the images of a data set."""

    root: Path
    classes: tuple[str, ...]
    """Sorted; a label is a place in this list."""
    train: tuple[File, ...]
    """Sorted by class, then by path."""
    test: tuple[File, ...] | None
    """None where there is no second split."""
    notes: tuple[str, ...]
    val: tuple[File, ...] | None = None
    """The split beside train and test that selects the epoch; None where there is none."""
    read: Read | None = None
    """Reads an image that is not a file; None where paths are files below the root."""
    groups: Mapping[str, str] | None = None
    """The group of every image by its path, where the data set has them."""
    key: tuple[str, str] | None = None
    """Text that names its decoded images in the store, and a digest of what else they depend on but paths, sizes and
    times; None: they are named by the root."""

    label_sets: Mapping[str, tuple[int, ...]] | None = None
    """The classes of every image by its path, where an image may have several; a file's `label` is then 0."""

    @property
    def files(self) -> tuple[File, ...]:
        """Return the images of all splits: train, test, val."""
        return self.train + (self.test or ()) + (self.val or ())
