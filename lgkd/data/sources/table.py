"""List the images of a table: CSV or Parquet with the columns path and label, and perhaps split and group. No torch.

Instead of one label an image a table may have several, see `lgkd.data.sources.label_sets`.
"""

import csv
import io
import posixpath
import stat
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from lgkd._internal.text import listed, safe_text
from lgkd.data.listing import Fault, Listing, refuse
from lgkd.data.sources.label_sets import is_lists, is_multi_label, label_columns, read_labels
from lgkd.data.sources.parquet import read_parquet
from lgkd.data.sources.rows import (
    GROUPS,
    LABELS,
    LISTS,
    PATHS,
    ROLES,
    SPLITS,
    Labels,
    Role,
    Row,
    check_groups,
    column_of,
)  # fmt: skip
from lgkd.data.sources.source import Source
from lgkd.errors import DataError

_IS_VALID: dict[str, Role] = {"true": "val", "1": "val", "false": "train", "0": "train"}
"""Values of fastai's column is_valid."""
_DELIMITERS = (",", ";", "\t", "|")
_MOST_BYTES = 500_000_000
_SHOWN = 3


class Table(NamedTuple):
    """Hold the used columns of a table as text.

    Attributes:
        columns: names of all columns.
        rows: of the columns, with the number of the row in the file.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[int, Sequence[Any]]]


class LabelTable(Source):
    """List the images of a CSV or Parquet file, whose paths start from the folder that it is in."""

    def __init__(self, file: Path) -> None:
        self.file = file.resolve()
        self.name, self.text = table_name(file), str(file)
        self.place = str(self.file)

    def listing(self, *, fault: Fault = refuse) -> Listing:
        """List all splits."""
        return self.rows(fault).listing(fault)

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the images to score."""
        return self.rows(refuse).labelled(known)

    def group_column(self) -> str | None:
        """Return the name of the column of groups."""
        return column_of(read_table(self.file).columns, GROUPS, "group", self.text)

    def multi_label(self) -> bool:
        """Return True if an image may have several labels, by the columns."""
        return is_multi_label(*_beginning(read_table(self.file)))

    def rows(self, fault: Fault) -> Labels:
        """List all images with their labels, row by row; the columns decide whether an image has one or several."""
        table, shown = read_table(self.file), safe_text(self.text, 300)
        several = is_multi_label(*_beginning(table))
        columns = _columns(table.columns, self.text, one_label=not several)
        sets = label_columns(table.columns, columns.values(), shown) if several else []
        unused = [name for name in table.columns if name not in (*columns.values(), *sets)]
        _check_unused(unused, columns, shown)
        notes = (f"not used: the columns {listed(unused)} of {shown}",) if unused else ()
        places = {what: table.columns.index(name) for what, name in columns.items()}
        cells = [
            (number, {what: str(row[place]).strip() if place < len(row) else "" for what, place in places.items()})
            for number, row in table.rows
        ]
        of: dict[int, tuple[str, ...]] | None = None
        if several:
            read = read_labels(table.columns, sets, [row for _, row in table.rows], shown)
            of = {number: read(number, row) for number, row in table.rows}
        _check_filled(cells, columns, shown, fault)
        rows = self._rows(cells, columns, of, fault)
        if "group" in columns:
            check_groups(rows, self.text, fault)
        classes = None
        if of is not None:
            classes = tuple(sorted({name for row in rows for name in row.classes or ()} if is_lists(sets) else sets))
        return Labels(self.file.parent, self.text, self.place, rows, notes, classes=classes)

    def _rows(
        self,
        cells: Sequence[tuple[int, Mapping[str, str]]],
        columns: Mapping[str, str],
        sets: Mapping[int, tuple[str, ...]] | None,
        fault: Fault,
    ) -> list[Row]:
        """Find the files, and report those that are missing or repeated."""
        found: dict[str, tuple[int, Row]] = {}
        missing: list[str] = []
        repeated: list[str] = []
        for number, row in cells:
            if not row["path"] or (sets is None and not row["label"]):
                continue
            path = self._path(row["path"], number)
            role = _role(row.get("split"), columns.get("split"), number, self.text)
            try:
                status = (self.file.parent / path).stat()
            except (OSError, ValueError):
                missing.append(path)
                continue
            if not stat.S_ISREG(status.st_mode):  # reading from a pipe would wait for a writer
                missing.append(path)
                continue
            new = Row(
                path, row.get("label", ""), role, status.st_size, status.st_mtime_ns, row.get("group") or None,
                None if sets is None else sets[number],
            )  # fmt: skip
            if path in found:
                repeated.append(_repeated(*found[path], number, new))
                continue
            found[path] = number, new
        shown = safe_text(self.text, 300)
        if missing:
            fault(
                f"{len(missing):,} of {len(cells):,} files of {shown} are not there: {listed(missing, _SHOWN)}; "
                f"expected files below {safe_text(str(self.file.parent), 300)}, correct the paths or remove the rows"
            )
        if repeated:
            more = f"; and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
            fault(f"{shown} names files twice: {'; '.join(repeated[:_SHOWN])}{more}; keep one row of each")
        return [row for _, row in found.values()]

    def _path(self, text: str, number: int) -> str:
        """Return a path below the table's folder.

        Raises:
            DataError: it leads elsewhere. A table may come from a stranger, and its paths are read.
        """
        windows = PureWindowsPath(text)
        path = text if not windows.drive else windows.as_posix()
        path = posixpath.normpath(path.replace("\\", "/"))
        root = self.file.parent.as_posix()
        if PurePosixPath(path).is_absolute() and PurePosixPath(path).is_relative_to(root):
            path = PurePosixPath(path).relative_to(root).as_posix()
        if PurePosixPath(path).is_absolute() or windows.drive or path == ".." or path.startswith("../"):
            raise DataError(
                f"{safe_text(self.text, 300)}:{number} names {safe_text(text)!r}, which is outside of "
                f"{safe_text(root, 300)}; expected paths below the table's folder, move the table to a folder above "
                "the images"
            )
        return path


def open_source(place: Path, offline: bool) -> LabelTable:  # noqa: ARG001
    """Return the source of a table."""
    return LabelTable(place)


def table_name(file: Path) -> str:
    """Return the name of a table's data set: that of its folder, and its own."""
    place = file.expanduser().resolve()
    return f"{place.parent.name}-{place.stem}".lstrip("-")


def read_table(file: Path) -> Table:
    """Read a CSV file (comma, semicolon, tab or bar; UTF-8, or UTF-16 with its mark) or a Parquet file.

    Raises:
        DataError: it cannot be read, or has no columns of path and label.
        MissingError: Parquet needs pyarrow, which is not installed.
    """
    if file.suffix.lower() == ".parquet":
        table = Table(*read_parquet(file, _wanted, LISTS))
        _check_kind(table, file)
        return table
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); expected a table with path and label") from None
    if len(raw) > _MOST_BYTES:
        raise DataError(f"{file} has over {_MOST_BYTES:,} bytes; expected a table of paths and labels")
    text = _decoded(raw, file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    likely = max(_DELIMITERS, key=first.count)
    delimiter = next((one for one in _DELIMITERS if _is_header(first.split(one))), likely)
    if not _may_be_header(first.split(delimiter)):
        raise _no_header(first.split(delimiter), file)
    try:
        rows = [(number, row) for number, row in _numbered(text, delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file ({error}); save it as one") from None
    (_, head), *rest = rows
    wide = [number for number, row in rest if len(row) > len(head)]
    if wide:
        raise DataError(
            f"{file}:{wide[0]} has more cells than the {len(head)} columns; enclose cells that contain {delimiter!r} "
            "in quotes"
        )
    table = Table(tuple(name.strip() for name in head), rest)
    _check_kind(table, file)
    return table


def _numbered(text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for row in reader:
        yield reader.line_num, row


def _wanted(names: Sequence[str]) -> list[str]:
    """Return the columns of a Parquet file to read: those of known names, or all where each may be a class."""
    known = [name for name in names if name.strip().lower() in {*PATHS, *LABELS, *LISTS, *SPLITS, *GROUPS}]
    return known if any(name.strip().lower() in (*LABELS, *LISTS) for name in known) else [*names]


def _beginning(table: Table) -> tuple[Sequence[str], Sequence[Any]]:
    """Return the header and the cells of the first row."""
    return table.columns, table.rows[0][1] if table.rows else ()


def _check_kind(table: Table, file: Path) -> None:
    """Refuse a table that has neither a column of labels nor one of 0 and 1 for every class."""
    if not _is_header(table.columns) and not (_may_be_header(table.columns) and is_multi_label(*_beginning(table))):
        raise _no_header(table.columns, file)


def _no_header(cells: Sequence[str], file: Path) -> DataError:
    named = listed([cell.strip().strip('"') for cell in cells if cell.strip()]) or "none"
    return DataError(
        f"{file} has the columns {safe_text(named, 200)}; expected one of paths (named {', '.join(PATHS[:3])} or "
        f"the like) and one of labels ({', '.join(LABELS[:3])}), or of 0 and 1 for every class, in the first row of a "
        "CSV file"
    )


def _is_header(cells: Sequence[str]) -> bool:
    names = _names(cells)
    return bool(names & set(PATHS)) and bool(names & {*LABELS, *LISTS})


def _may_be_header(cells: Sequence[str]) -> bool:
    names = _names(cells)
    return _is_header(cells) or (bool(names & set(PATHS)) and len(names - {*PATHS, *SPLITS, *GROUPS}) > 1)


def _names(cells: Sequence[str]) -> set[str]:
    return {cell.strip().strip('"').lower() for cell in cells}


def _decoded(raw: bytes, file: Path) -> str:
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(coding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not text in UTF-8 (byte {error.start:,} is {raw[error.start : error.start + 1]!r}); save it as "
            "CSV UTF-8"
        ) from None


def _columns(names: Sequence[str], place: str, *, one_label: bool) -> dict[str, str]:
    """Map path, split and group, and label where an image has one, to the names of their columns."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{safe_text(place, 300)} has two columns {safe_text(twice)!r}; expected different names")
    kinds = {"path": PATHS, "split": SPLITS, "group": GROUPS}
    kinds |= {"label": LABELS} if one_label else {}
    found = {what: column_of(names, aliases, what, place) for what, aliases in kinds.items()}
    return {what: name for what, name in found.items() if name is not None}


def _check_unused(unused: Sequence[str], columns: Mapping[str, str], shown: str) -> None:
    """Refuse a column whose name is almost that of one that is missing: a split must not be passed over silently."""
    for what, aliases in (("split", SPLITS), ("group", GROUPS)):
        for name in unused if what not in columns else ():
            if close := get_close_matches(name.lower(), aliases, 1, 0.75):
                raise DataError(
                    f"{shown} has a column {safe_text(name)!r}, which is not known; did you mean {close[0]!r}? Rename "
                    "it, to that or to something else"
                )


def _check_filled(
    cells: Sequence[tuple[int, Mapping[str, str]]], columns: Mapping[str, str], shown: str, fault: Fault
) -> None:
    for what in ("path", "label", "split"):
        empty = [str(number) for number, row in cells if what in row and not row[what]]
        if empty:
            fault(
                f"{len(empty):,} of {len(cells):,} rows of {shown} have no {what} (column {safe_text(columns[what])}): "
                f"rows {listed(empty, _SHOWN)}; fill them, or remove the rows"
            )


def _role(text: str | None, column: str | None, number: int, place: str) -> Role:
    if not text or column is None:
        return "train"
    known = _IS_VALID if column.strip().lower() == "is_valid" else ROLES
    role = known.get(text.lower())
    if role is None:
        raise DataError(
            f"{safe_text(place, 300)}:{number} has the split {safe_text(text)!r}; expected one of "
            f"{', '.join(known)}, change or remove the row"
        )
    return role


def _shown(row: Row) -> str:
    return safe_text(row.label if row.classes is None else ", ".join(row.classes) or "none")


def _repeated(first: int, old: Row, number: int, new: Row) -> str:
    where = f"{safe_text(old.path)} in the rows {first} and {number}"
    if (old.label, old.classes) != (new.label, new.classes):
        return f"{where}, as {_shown(old)} and as {_shown(new)}"
    return f"{where}, in {old.role} and in {new.role}" if old.role != new.role else where
