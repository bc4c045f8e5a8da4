"""Read which images belong together: those of a patient, a smear, a slide. No torch."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lgkd._internal.text import listed, safe_text
from lgkd.errors import DataError, InputError

FORMS = "level:N (a folder below the class), name:REGEX (its first group, in the file's name) or csv:FILE (path,group)"
COLUMN = "column:group"
"""Text of the groups that a data set has itself, in a column of its table."""
_MOST_BYTES = 200_000_000
_DIGITS = 8
_SHOWN = 3


@dataclass(frozen=True)
class Groups:
    """Describe how the images of a data set are grouped.

    Attributes:
        kind: "level", "name", "csv" or "column".
        value: the level, the expression, the file or the name of the column.
        table: the group of every image by its path, of a column.

    Raises:
        InputError: the level or the expression is not valid, or the file cannot be read.
    """

    kind: str
    value: str
    table: Mapping[str, str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind == "level" and not re.fullmatch("[1-9][0-9]?", self.value):
            raise InputError(f"--groups level:{self.value} names no folder; expected its level below the class, from 1")
        if self.kind == "name":
            try:
                groups = re.compile(self.value).groups
            except re.error as error:
                raise InputError(f"--groups name:{self.value} is not a regular expression: {error}") from None
            if not groups:
                raise InputError(
                    f"--groups name:{self.value} has no group in parentheses; enclose the part of the file's name that "
                    r"names the group, like name:(\d+)_"
                )
        if self.kind == "csv":
            self.read_table()

    @classmethod
    def parse(cls, text: str | None) -> "Groups | None":
        """Read the text of `--groups`; None for None.

        Raises:
            InputError: it has another form, or names no valid group.
        """
        if text is None:
            return None
        kind, colon, value = text.partition(":")
        if kind not in ("level", "name", "csv", "column") or not colon or not value:
            raise InputError(f"--groups is {text!r}, expected {FORMS}")
        return cls(kind, str(Path(value).expanduser().resolve()) if kind == "csv" else value)

    @classmethod
    def of_run(cls, about: Mapping[str, Any] | None) -> "Groups | None":
        """Read the groups of a run from `dataset.groups` of its run.json.

        Raises:
            InputError: the table is not where it was, or has changed.
        """
        if not about:
            return None
        name, table = str(about["by"]), about.get("table")
        groups = cls.parse(name if table is None else f"csv:{table}")
        if groups is not None and groups.name != name:
            raise InputError(
                f"{table} has changed since the run ({name}, now {groups.name}), so its test images are not known; "
                "expected the table of the run, take it from a copy"
            )
        return groups

    def of_images(self, listed: Mapping[str, str] | None) -> "Groups":
        """Return groups that know those of a listing, if they are its column."""
        return replace(self, table=listed) if self.kind == "column" else self

    @property
    def text(self) -> str:
        """Return the text of `--groups` that gives the same groups, with the absolute path of a table."""
        return f"{self.kind}:{self.value}"

    @property
    def name(self) -> str:
        """Return a text without folders for cards and run.json: a table's name and the beginning of its SHA-256."""
        if self.kind != "csv":
            return self.text
        digest = sha256(self._content()).hexdigest()[:_DIGITS]
        return f"csv:{Path(self.value).name}@{digest}"

    def of(self, names: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Return the group of every image.

        Args:
            names: paths of the files below the data set's folder, with forward slashes.
            classes: the class of each, which is a folder of its path; "" for images with several labels.

        Raises:
            DataError: an image has no group.
        """
        if self.kind == "column":
            table = self.table or {}
            return _known([table.get(name) for name in names], names, f"the data set has no column {self.value}")
        if self.kind == "csv":
            table = self.read_table()
            return _known([table.get(name) for name in names], names, f"no row of {Path(self.value).name} has its path")
        if self.kind == "name":
            pattern = re.compile(self.value)
            found = [pattern.search(name.rpartition("/")[2]) for name in names]
            groups = [None if match is None else match.group(1) for match in found]
            return _known(groups, names, f"the expression {safe_text(self.value)} finds none in its name")
        if not any(classes):
            raise DataError(
                f"--groups {self.text} is a folder below that of the class, and images with several labels have no "
                "such folder; use name:REGEX or csv:FILE"
            )
        below = _below_class(names, classes)
        level = int(self.value)
        # The folder's name alone: images of one patient may be below several classes and folders.
        return _known(
            [parts[level - 1] if len(parts) > level else None for parts in below],
            names,
            f"there is no folder at level {level} below the class",
        )

    def read_table(self) -> dict[str, str]:
        """Read the table: rows of a path below the data set's folder and a group; a first row path,group is skipped.

        Raises:
            InputError: it cannot be read, or a row has no group, or a path is repeated with another one.
        """
        table: dict[str, str] = {}
        try:
            rows = list(csv.reader(self._content().decode("utf-8-sig").splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"--groups {self.value} is not a CSV file in UTF-8 ({error}); save it as one") from None
        for number, row in enumerate(rows, 1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and [cell.lower() for cell in cells[:2]] == ["path", "group"]):
                continue
            if len(cells) < 2 or not cells[0] or not cells[1]:
                raise InputError(f"--groups {self.value}:{number} has no path and group; expected rows like a/1.png,p1")
            path = cells[0].replace("\\", "/").removeprefix("./")
            if table.setdefault(path, cells[1]) != cells[1]:
                raise InputError(
                    f"--groups {self.value}:{number} puts {safe_text(path)} into the group {safe_text(cells[1])}, an "
                    f"earlier row into {safe_text(table[path])}; keep one of the two"
                )
        return table

    def _content(self) -> bytes:
        try:
            with Path(self.value).open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"--groups {self.value} cannot be read ({error.strerror}); expected a CSV file of path,group"
            ) from None
        if len(raw) > _MOST_BYTES:
            raise InputError(f"--groups {self.value} has over {_MOST_BYTES:,} bytes; expected a table of path,group")
        return raw


def _known(groups: Sequence[str | None], names: Sequence[str], why: str) -> list[str]:
    lacking = [name for name, group in zip(names, groups, strict=True) if not group]
    if lacking:
        raise DataError(
            f"{len(lacking):,} of {len(names):,} images have no group, as {why}: {listed(lacking, _SHOWN)}; expected a "
            "group for every image, change --groups or the files"
        )
    return [group for group in groups if group]


def _below_class(names: Sequence[str], classes: Sequence[str]) -> list[list[str]]:
    """Return the parts of every path below the folder of its class, the file's name last."""
    paths = [name.split("/") for name in names]
    # CLASS/... or SPLIT/CLASS/...
    above = 0 if all(path[0] == name for path, name in zip(paths, classes, strict=True)) else 1
    if above and not all(path[1:2] == [name] for path, name in zip(paths, classes, strict=True)):
        raise DataError(
            f"--groups level:N counts folders below the folder of a class, and {listed(list(names[:1]))} is in none; "
            "expected FOLDER/CLASS/*, take name:REGEX, csv:FILE, or a column group of the table"
        )
    return [path[above + 1 :] for path in paths]
