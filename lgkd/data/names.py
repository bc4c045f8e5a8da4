"""Names of data sets and subsets, as they stand in folders and cards."""

import re
from pathlib import Path

from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import InputError


def dataset_key(source: str | Path) -> str:
    """The name under which teachers of a data set are kept; a safe name of a folder."""
    if isinstance(source, str) and source in CATALOGUE:
        return source
    return folder_word(Path(source).expanduser().resolve().name) or "folder"


WITHOUT = "without near copies"
"""How a subset ends, in words, that holds no near copies."""


def subset_words(
    fraction: float | None, images_per_class: int | None, seed: int, *, leaves_out: bool = False
) -> str | None:
    """A subset in the words of a teacher's card; None for all images. `leaves_out`: near copies are left out.

    Raises:
        InputError: both were given, or one is out of range.
    """
    if fraction is not None and images_per_class is not None:
        raise InputError(
            f"--fraction {fraction:g} and --images-per-class {images_per_class} were both given; choose one"
        )
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"--fraction is {fraction:g}, expected a number above 0 and at most 1")
    if images_per_class is not None and images_per_class < 1:
        raise InputError(f"--images-per-class is {images_per_class}, expected at least 1")
    if seed < 0:
        raise InputError(f"--subset-seed is {seed}, expected 0 or more")
    words = []
    if images_per_class is not None:
        words.append(f"{images_per_class} images per class, seed {seed}")
    elif fraction is not None and fraction != 1:
        words.append(f"fraction {fraction:g}, seed {seed}")
    if leaves_out:
        words.append(WITHOUT)
    return ", ".join(words) or None


def folder_word(text: str) -> str:
    """`text` as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")
