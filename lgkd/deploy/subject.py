"""Load a finished run's student to export, and real images to compare its copies on."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.data.dataset import DataSet, Images
from lgkd.data.decode import decode_readable
from lgkd.data.folds import fold_of
from lgkd.data.greys import read_greys
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.subsets import select_subset
from lgkd.data.transforms.augment import Plain
from lgkd.deploy.inference.image_files import find_images, reader_of
from lgkd.deploy.inference.load import longest_side_of, plain_of
from lgkd.errors import DataError, InputError, LgkdError, MissingError
from lgkd.runs.folder import ENV, read_run, read_student
from lgkd.runs.load_student import data_of, load_student

IMAGES = 32
"""Largest number of images to compare copies with the student on."""


@dataclass(frozen=True)
class Subject:
    """Hold a finished run and its student.

    Attributes:
        folder: the run's.
        info: run.json.
        about: student.json.
        student: in eval mode, on the CPU, in fp32.
    """

    folder: Path
    info: dict[str, Any]
    about: dict[str, Any]
    student: nn.Module

    @property
    def channels(self) -> int:
        """Return the channels of its images."""
        return len(self.about["mean"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        height, width = self.about["image_size"]
        return height, width


def read_subject(folder: Path, model: nn.Module | None) -> Subject:
    """Read a run; `model` as for `load_student`.

    Raises:
        InputError: the folder holds no finished run, or it names code that is not trusted.
    """
    info = read_run(folder)
    if info["status"] != "finished":
        raise InputError(f"{folder} is not finished ({info['status']}), so it has no student to export; resume it by: "
                         f"lgkd resume {folder}")  # fmt: skip
    about = read_student(folder)
    about["longest_side"] = longest_side_of(about, folder)  # which runs of older versions do not record
    return Subject(folder, info, about, load_student(folder, model=model).float())


def environment_of(folder: Path) -> dict[str, str]:
    """Return versions of the packages that a run was trained with; empty where its env.json cannot be read."""
    try:
        packages = json.loads((folder / ENV).read_text(encoding="utf-8"))["packages"]
        return {str(name): str(version) for name, version in packages.items() if version is not None}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def real_images(
    subject: Subject,
    given: Sequence[str | Path] | None,
    *,
    data_dir: str | Path | None = None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, str]:
    """Return at most `IMAGES` images, spread evenly, as the student takes them (B,3,H,W); and their origin, in words.

    Args:
        subject: whose images.
        given: files, folders and patterns; None: the test split of the run's data set.
        data_dir: folder of named data sets.
        say: called with a sentence on each unreadable file in a folder.
        progress: called with (done, total) images while a data set is decoded.

    Raises:
        MissingError: no images are given and the data set is not here; nothing is downloaded.
        DataError: a given image cannot be read.
    """
    plain, greys = plain_of(subject.about), read_greys(subject.about, subject.folder)
    if given is not None:
        files = find_images(given, fault=say)
        files = [files[place] for place in _spread(len(files)).tolist()]
        side = longest_side_of(subject.about, subject.folder)
        pixels, sizes, broken = decode_readable(files, max_side=side, greys=greys, read=reader_of(given))
        if broken:
            place, why = min(broken.items())
            raise DataError(f"{files[place]} cannot be read ({why}); name whole images to compare the export on")
        return plain(torch.from_numpy(pixels), torch.from_numpy(sizes)), "those that were named"
    try:
        dataset = _load(subject, data_dir, progress)
    except LgkdError as error:
        raise MissingError(
            f"an export is compared with its student on real images, and those of the run are not here ({error}); name "
            "some with --images"
        ) from None
    some = dataset.test.take(_spread(len(dataset.test)))
    return plain(some.pixels, some.sizes), f"the test split of {subject.info['dataset']['name']}"


@dataclass(frozen=True)
class Splits:
    """Hold the images of a run: those to calibrate on, and those that its accuracy is measured on."""

    train: Images
    test: Images


def run_splits(
    subject: Subject, *, data_dir: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Splits:
    """Load the images of a run: of its training split the part that it was trained on, and its test split or fold.

    Raises:
        MissingError: the data set is not here; nothing is downloaded.
    """
    try:
        dataset = _load(subject, data_dir, progress)
    except LgkdError as error:
        raise MissingError(
            f"accuracy is measured on the run's own test images, and these are not here ({error}); export without "
            "--verify, and to formats of 32 bits alone, or name their folder with --data-dir"
        ) from None
    about = subject.info["dataset"]
    subset, groups = Subset.parse(about["subset"] or "") or Subset(), Groups.of_run(about.get("groups"))
    if subset.fold is not None:
        dataset = fold_of(dataset, subset, groups)
    return Splits(select_subset(dataset.train, subset, classes=dataset.classes), dataset.test)


def calibration_batches(images: Images, plain: Plain, count: int, batch: int = 32) -> Iterator[Tensor]:
    """Yield batches of at most `count` images, evenly spread, prepared as in evaluation: float32 (B,3,H,W)."""
    most = min(count, len(images))
    for index in (torch.arange(most) * len(images) // most).split(batch):  # type: ignore[no-untyped-call]
        some = images.take(index)
        yield plain(some.pixels, some.sizes)


def _load(subject: Subject, data_dir: str | Path | None, progress: Callable[[int, int], None] | None) -> DataSet:
    """Load the data set of a run, without a download."""
    about = subject.info["dataset"]
    return load_dataset(
        data_of(subject.info, subject.folder),
        data_dir=data_dir or about["data_dir"],
        offline=True,
        progress=progress,
        greys=read_greys(subject.about, subject.folder),
        groups=Groups.of_run(about.get("groups")),
    )


def _spread(count: int) -> Tensor:
    """Return places of at most `IMAGES` things out of `count`, evenly spread: int64."""
    most = min(IMAGES, count)
    return torch.arange(most) * count // most
