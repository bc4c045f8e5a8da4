"""List the images of a data set of Hugging Face's `datasets`: a folder of `save_to_disk`, or a name of the hub.

Images stay in the files of `datasets`, and are decoded from there as files of other sources are. Code of a data set is
never run: `datasets` has not done so since version 4, which is the oldest one allowed. No token is sent. No torch here.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd._internal.text import counted, listed, safe_text
from lgkd.data.listing import Fault, Listing, refuse
from lgkd.data.sources.download import is_offline
from lgkd.data.sources.rows import GROUPS, LABELS, LISTS, ROLES, Labels, Role, Row, check_groups, column_of
from lgkd.data.sources.source import Source
from lgkd.errors import DataError, InputError, MissingError

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<name>[\w.-]{1,96}/[\w.-]{1,96})(?::(?P<config>[\w. -]{1,200}))?")
_IMAGES = ("image", "images", "img")
_SHOWN = 3


class _Columns(NamedTuple):
    """Name the columns of a data set."""

    image: str
    label: str
    group: str | None
    several: bool = False
    """The labels are lists."""


class HuggingFace(Source):
    """List the images of a folder of `save_to_disk`, or of a data set of the hub."""

    def __init__(self, folder: Path | None, text: str, offline: bool) -> None:
        self.text, self._folder, self._offline = text, folder, is_offline(offline)
        if folder is not None:
            self.name, self.place = folder.resolve().name, str(folder.resolve())
            return
        match = _NAME.fullmatch(text)
        if match is None or ".." in text:
            raise InputError(f"{text!r} is not a name of the hub; expected hf:OWNER/NAME or hf:OWNER/NAME:CONFIG")
        self.name, self.place = match["name"].replace("/", "-"), text
        self._hub, self._config = match["name"], match["config"]

    def listing(self, *, fault: Fault = refuse) -> Listing:
        """List all splits; a data set of the hub is downloaded."""
        return self.rows(fault).listing(fault)

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the images to score."""
        return self.rows(refuse).labelled(known)

    def group_column(self) -> str | None:
        """Return the name of the column of groups."""
        return self._columns.group

    def multi_label(self) -> bool:
        """Return True if an image may have several labels, by the type of their column."""
        return self._columns.several

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """Open the data set: its splits by name."""
        datasets = _library(self.text)
        try:
            with _own_settings(datasets.config, offline=self._offline):
                if self._folder is not None:
                    found = datasets.load_from_disk(str(self._folder.resolve()))
                else:
                    # With the scheme, a folder of that name in the working folder is not taken for it.
                    found = datasets.load_dataset(f"hf://datasets/{self._hub}", self._config, token=False)
        except Exception as error:  # the library raises anything: of files, of the network, of formats
            raise_if_out_of_memory(error)
            raise self._failure(error) from error
        return dict(found) if isinstance(found, Mapping) else {"train": found}

    def _failure(self, error: Exception) -> DataError | MissingError:
        why = safe_text(" ".join(str(error).split()).rstrip("."), 300)
        if self._folder is not None:
            return DataError(
                f"{self.text} cannot be read as a folder of datasets' save_to_disk ({why}); expected one, save it again"
            )
        if self._offline:
            how = "it was not downloaded, and this is offline: leave --offline out"
        else:
            how = "check name, CONFIG and connection; of a private one name a folder of save_to_disk"
        return MissingError(f"{self.text} is not here ({why}); expected a public data set of images, {how}")

    @cached_property
    def _columns(self) -> _Columns:
        """Find the columns by their types.

        Raises:
            DataError: there is no image or label, or several.
        """
        datasets = _library(self.text)
        features: Mapping[str, Any] = next((split.features for split in self._splits.values()), {})
        shown = safe_text(listed([f"{name} ({_kind(one)})" for name, one in features.items()]) or "none", 300)
        images = [name for name, one in features.items() if isinstance(one, datasets.Image)]
        image = _one_of(images, _IMAGES)
        if image is None:
            raise DataError(
                f"{self.text} has the columns {shown}; expected one of the type Image, remove the others by "
                "remove_columns or cast one by cast_column"
            )
        numbered = {name: one for name, one in features.items() if isinstance(one, datasets.ClassLabel)}
        label = _one_of(list(numbered), LABELS)
        lists = [name for name, one in features.items() if _is_list(name, one, datasets)] if not numbered else []
        several = _one_of(lists, LISTS)
        if lists and several is None:
            raise DataError(
                f"{self.text} has the columns {shown}; expected one list of labels, remove the others by remove_columns"
            )
        label = several or label
        if label is None and not numbered:
            plain = [name for name, one in features.items() if getattr(one, "dtype", "") in _TEXT]
            label = column_of(plain, LABELS, "label", self.text)
        if label is None:
            raise DataError(
                f"{self.text} has the columns {shown}; expected one of the type ClassLabel, or of text named label; "
                "remove the others by remove_columns or cast one by cast_column"
            )
        return _Columns(image, label, column_of(list(features), GROUPS, "group", self.text), several is not None)

    def rows(self, fault: Fault) -> Labels:
        """List all images with their labels, row by row."""
        columns = self._columns
        notes: list[str] = []
        rows: list[Row] = []
        parts: dict[str, tuple[Any, int]] = {}
        for name, split in self._splits.items():
            role = ROLES.get(name.lower())
            has_both = {columns.image, columns.label} <= set(split.column_names)
            labels = split.with_format(None)[columns.label][:] if has_both else []
            if role is None or not any(_is_label(label) and label != [] for label in labels):
                why = "has no labels" if role is not None else "is neither train, test nor val"
                notes.append(f"not used: the split {safe_text(name)} of {self.text}, which {why}")
                continue
            rows += self._rows(name, role, split, labels, columns, fault)
            images = split.with_format(None).select_columns([columns.image])
            images = images.cast_column(columns.image, _library(self.text).Image(decode=False))
            parts |= {_path(name, number): (images, number) for number in range(len(labels))}
        if columns.group is not None:
            check_groups(rows, self.text, fault)
        allowed = self._allowed

        def read(path: str) -> bytes:
            images, number = parts[path]
            return _content(images[number][columns.image], allowed)

        root = self._folder.resolve() if self._folder is not None else Path(self.text)
        classes = tuple(sorted({name for row in rows for name in row.classes or ()})) if columns.several else None
        return Labels(root, self.text, str(self.place), rows, tuple(notes), read, classes)

    def _rows(
        self, name: str, role: Role, split: Any, labels: Sequence[Any], columns: _Columns, fault: Fault
    ) -> list[Row]:
        """Describe the images of a split; those without a label are reported."""
        plain = split.with_format(None)
        groups = plain[columns.group][:] if columns.group in split.column_names else [None] * len(labels)
        of_label = split.features[columns.label]
        # Of this split, which may number them otherwise.
        names = getattr(of_label.feature if columns.several else of_label, "names", None)
        size, changed = _state(split)
        rows: list[Row] = []
        lacking: list[int] = []
        for number, (label, group) in enumerate(zip(labels, groups, strict=True)):
            if not _is_label(label):
                lacking.append(number)
                continue
            every = [one for one in (label if columns.several else [label]) if _is_label(one)]
            found = sorted({names[one] if names is not None else str(one).strip() for one in every})
            of = None if group is None else str(group).strip() or None
            text, classes = ("", tuple(found)) if columns.several else (found[0], None)
            rows.append(Row(_path(name, number), text, role, size, changed, of, classes))
        if lacking:
            fault(
                f"{counted(len(lacking), 'image')} of the split {safe_text(name)} of {self.text} "
                f"{'has' if len(lacking) == 1 else 'have'} no label: rows "
                f"{listed([str(one) for one in lacking], _SHOWN)}; remove them, such as by filter"
            )
        return rows

    @property
    def _allowed(self) -> tuple[Path, ...]:
        """Return the folders in which images may be that are files: that of the data set, and the library's own."""
        config = _library(self.text).config
        own = [Path(str(one)) for one in (config.HF_DATASETS_CACHE, config.HF_CACHE_HOME)]
        return tuple(one.resolve() for one in ([self._folder] if self._folder is not None else own))


_TEXT = ("string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


def open_source(place: Path | str, offline: bool) -> HuggingFace:
    """Return the source of a folder, or of a name of the hub."""
    return HuggingFace(place if isinstance(place, Path) else None, str(place), offline)


def _library(text: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingError(
            f"{text} is read by the package datasets, which is not installed; get it by: pip install 'lgkd[hf]'"
        ) from None
    return datasets


@contextmanager
def _own_settings(config: Any, *, offline: bool) -> Iterator[None]:
    """Open no connection where `offline`, and report no use of a data set to the hub."""
    ours = {"HF_UPDATE_DOWNLOAD_COUNTS": False, **({"HF_HUB_OFFLINE": True} if offline else {})}
    theirs: dict[str, Any] = {name: getattr(config, name, None) for name in ours}
    for name, value in ours.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in theirs.items():
            setattr(config, name, value)


def _one_of(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the only name, or the only one of some wanted ones; None where there is none, or more."""
    named = [name for name in names if name.lower() in wanted]
    return names[0] if len(names) == 1 else named[0] if len(named) == 1 else None


def _is_list(name: str, feature: Any, datasets: Any) -> bool:
    """Return True for a list of ClassLabel, or of text in a column named as lists of labels are."""
    inner = getattr(feature, "feature", None)
    text = getattr(inner, "dtype", "") in ("string", "large_string") and name.strip().lower() in LISTS
    return isinstance(inner, datasets.ClassLabel) or text


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else type(feature).__name__)


def _is_label(label: Any) -> bool:
    return label is not None and label != -1 and str(label).strip() != ""


def _path(split: str, number: int) -> str:
    return f"{split}/{number:07d}"


def _state(split: Any) -> tuple[int, int]:
    """Return bytes and the time of the last change of a split's files."""
    states = [Path(file["filename"]).stat() for file in split.cache_files]
    return sum(one.st_size for one in states), max((one.st_mtime_ns for one in states), default=0)


def _content(image: Mapping[str, Any] | None, allowed: Sequence[Path]) -> bytes:
    """Return the encoded image of a row.

    Raises:
        ValueError: there is none, or it is a file elsewhere: a data set may come from a stranger.
    """
    content, path = (image or {}).get("bytes"), (image or {}).get("path")
    if content is not None:
        return bytes(content)
    if not path:
        raise ValueError("the row has no image")
    place = Path(os.path.realpath(path))
    if not any(place.is_relative_to(one) for one in allowed):
        raise ValueError("it is a file outside of the data set; save it with its images by save_to_disk")
    return place.read_bytes()
