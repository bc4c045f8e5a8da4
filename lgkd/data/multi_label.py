"""Read tables of images with several labels each: a CSV file that names images and their classes. No torch.

Two forms, told apart by the header:

- lists: a column of paths and a column `labels` (or `tags`), as in `a.jpg,cat;dog`. The lists of a file are separated
  by the first of `;` `|` `,` that any of them contains, so that names may have spaces, and commas where `;` separates.
- one column a class: a column of paths, and for every class a column of 0 and 1 whose header is its name.

Both may have a column `split` (train, test; val, valid or validation serve where there is no test) and a column
`group`. Paths are below the table's folder. An image without a class is an example of none.
"""

import csv
import io
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final, NamedTuple

from lgkd._internal.text import counted, listed, safe_text
from lgkd.data.image_folder import Fault, File, Tree, refuse
from lgkd.errors import DataError

PATHS: Final = ("path", "image", "image_path", "file", "file_name", "filename", "fname")
"""Headers of the column of paths."""

LISTS: Final = ("labels", "tags")
"""Headers of the column of lists of classes."""

FORMS: Final = (
    "a CSV file with columns path,labels (as in a.jpg,cat;dog) or a column of paths and one of 0 and 1 for every class"
)
SPLIT: Final = "split"
GROUP: Final = "group"
SEPARATORS: Final = (";", "|", ",")

_SPLITS: Final = {"train": "train", "training": "train", "test": "test", "testing": "test",
                  "val": "val", "valid": "val", "validation": "val"}  # fmt: skip
_IS: Final = {"1": True, "1.0": True, "0": False, "0.0": False}
_MOST_BYTES = 200_000_000
_SINGLE = "label"


class Row(NamedTuple):
    """Describe an image of a table."""

    path: str
    """As it is written there, with forward slashes."""
    classes: frozenset[str]
    split: str | None
    """"train", "test" or "val"; None without such a column."""
    group: str | None


@dataclass(frozen=True)
class Table:
    """Hold the images of a table.

    Attributes:
        classes: sorted; of lists all that occur, else one for every column.
        rows: in the order of the table.
    """

    classes: tuple[str, ...]
    rows: tuple[Row, ...]


def is_multi_label(header: Sequence[str], first: Sequence[Any] = ()) -> bool:
    """Return true if a table with this header has several labels an image.

    It has a column of lists; or it has no column `label`, and its first row has 0 or 1 in at least two other columns.
    """
    names = [name.strip().lower() for name in header]
    if any(name in LISTS for name in names):
        return True
    cells = dict(zip(names, first, strict=False))
    others = [name for name in names if name not in (*PATHS, SPLIT, GROUP)]
    return _SINGLE not in names and sum(str(cells.get(name, "")).strip() in _IS for name in others) >= 2


def parse_rows(header: Sequence[str], rows: Sequence[Sequence[Any]], origin: str) -> Table:
    """Read the rows of a table with several labels an image.

    Args:
        header: names of the columns.
        rows: cells; a list of classes is a text, or a sequence of names as in Parquet.
        origin: name of the table, for messages; the first row is its second line.

    Raises:
        DataError: a column is missing or is unknown, a cell has another form, or a path is repeated.
    """
    names = [str(name).strip() for name in header]
    known = {name.lower(): place for place, name in reversed(list(enumerate(names)))}
    paths = next((known[name] for name in PATHS if name in known), None)
    if paths is None:
        raise DataError(f"{origin} has no column of paths among {listed(names)}; expected one named {', '.join(PATHS)}")
    lists = next((known[name] for name in LISTS if name in known), None)
    apart = {paths, *(known[name] for name in (SPLIT, GROUP) if name in known)}
    columns = [] if lists is not None else [place for place in range(len(names)) if place not in apart]
    if lists is None and (not columns or len({names[place] for place in columns}) < len(columns)):
        raise DataError(f"{origin} has the columns {listed(names)}; expected {FORMS}, each class once")
    separator = None if lists is None else _separator(row[lists] for row in rows if lists < len(row))
    found: list[Row] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        if not any(str(cell).strip() for cell in row):
            continue
        if len(row) != len(names):
            raise DataError(
                f"{origin}:{line} has {len(row)} cells, expected {len(names)} as in the header; mend the row"
            )
        path = _path(str(row[paths]), origin, line)
        if seen.setdefault(path, line) != line:
            raise DataError(
                f"{origin}:{line} has the path {safe_text(path)} of line {seen[path]} again; expected a row an image: "
                "put all of its classes into one row"
            )
        classes = (
            _listed(row[lists], separator)
            if lists is not None
            else frozenset(names[place] for place in columns if _is(row[place], names[place], origin, line))
        )
        split = _split(row[known[SPLIT]], origin, line) if SPLIT in known else None
        found.append(Row(path, classes, split, str(row[known[GROUP]]).strip() or None if GROUP in known else None))
    every = {name for row in found for name in row.classes} | {names[place] for place in columns}
    return Table(tuple(sorted(every)), tuple(found))


def _path(text: str, origin: str, line: int) -> str:
    """Return a path below the table's folder, with forward slashes; a table may come from a stranger."""
    path = posixpath.normpath(text.strip().replace("\\", "/"))
    if path in (".", "..") or path.startswith(("/", "../")) or PureWindowsPath(path).drive:
        raise DataError(
            f"{origin}:{line} has the path {safe_text(text)!r}, expected one below the table's folder; move the table "
            "above the images, or correct the path"
        )
    return path


def _separator(cells: Any) -> str | None:
    """Return the first separator that any text has; None where all lists have one class at most."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return next((sign for sign in SEPARATORS if any(sign in text for text in texts)), None)


def _listed(cell: Any, separator: str | None) -> frozenset[str]:
    parts = (cell.split(separator) if separator else [cell]) if isinstance(cell, str) else cell or ()
    return frozenset(name for part in parts if (name := str(part).strip()))


def _is(cell: Any, name: str, origin: str, line: int) -> bool:
    found = _IS.get(str(cell).strip().lower())
    if found is None:
        raise DataError(
            f"{origin}:{line} has {safe_text(str(cell), 40)!r} in the column {safe_text(name)!r}, expected 0 or 1; "
            "correct the cell, or remove the column if it is not a class"
        )
    return found


def _split(cell: Any, origin: str, line: int) -> str:
    found = _SPLITS.get(str(cell).strip().lower())
    if found is None:
        raise DataError(
            f"{origin}:{line} has the split {safe_text(str(cell), 40)!r}, expected train, test or val; correct the cell"
        )
    return found


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read header and rows of a CSV file.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        raw = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8 ({error}); expected {FORMS}") from None
    if len(lines) < 2:
        raise DataError(f"{path} has {counted(len(lines), 'row')} in at most {_MOST_BYTES:,} bytes; expected {FORMS}")
    return lines[0], lines[1:]


def read_table(path: Path, *, known: tuple[str, ...] | None = None, fault: Fault = refuse) -> Tree:
    """List the images of a CSV file with several labels an image.

    Args:
        path: the table.
        known: the classes of a classifier, which label the images; None: the table's own.
        fault: as for `lgkd.data.image_folder.read_tree`.

    Raises:
        DataError: the table has another form, a class is not known, or no image is trained on; and from `refuse`.
    """
    header, rows = read_rows(path)
    if not is_multi_label(header, rows[0]):
        raise DataError(f"{path} has the columns {listed(header)}; expected {FORMS}")
    table = parse_rows(header, rows, path.name)
    foreign = [] if known is None else sorted(set(table.classes) - set(known))
    if foreign:
        raise DataError(
            f"{path} has {counted(len(foreign), 'class')} that the student does not know: {listed(foreign)}; expected "
            f"its classes ({listed(list(known or ()))}), or some of them"
        )
    classes = table.classes if known is None else known
    if len(classes) < 2:
        raise DataError(
            f"{path} has {counted(len(classes), 'class')}; expected at least 2: an image may have any of them"
        )
    place = {name: number for number, name in enumerate(classes)}
    sets = {row.path: tuple(sorted(place[name] for name in row.classes)) for row in table.rows}
    # Sorted, so that the order of the rows changes nothing.
    files = {row.path: file for row in sorted(table.rows) if (file := _file(path.parent, row.path, fault)) is not None}
    splits: dict[str | None, list[File]] = {}
    for row in sorted(table.rows):
        if row.path in files:
            splits.setdefault(row.split, []).append(files[row.path])
    train, test, notes = _parts(path, splits)
    if any(row.group for row in table.rows):
        notes = (*notes, f"not used: the column {GROUP} of {path.name}; name groups with --groups")
    return Tree(path.parent, classes, train, test, (*notes, *_about(classes, sets, train, path)), sets)


def _file(root: Path, path: str, fault: Fault) -> File | None:
    try:
        status = (root / path).stat()
    except OSError as error:
        fault(f"{root / path} of the table cannot be read ({error.strerror}); correct the path or remove the row")
        return None
    return File(path, 0, status.st_size, status.st_mtime_ns)


def _parts(
    path: Path, splits: Mapping[str | None, Sequence[File]]
) -> tuple[tuple[File, ...], tuple[File, ...] | None, tuple[str, ...]]:
    """Return the files to train on, those to test on, and notes."""
    if None in splits:
        return tuple(splits[None]), None, ()
    if "train" not in splits:
        raise DataError(f"{path} has no row of the split train ({listed([str(one) for one in splits])}); expected some")
    tested = next((name for name in ("test", "val") if name in splits), None)
    notes = [f"no split named test: scores are reported on val of {path.name}"] if tested == "val" else []
    if tested == "test" and "val" in splits:
        notes.append(f"not used: the split val of {path.name} ({counted(len(splits['val']), 'image')})")
    return tuple(splits["train"]), None if tested is None else tuple(splits[tested]), tuple(notes)


def _about(classes: Sequence[str], sets: Mapping[str, Sequence[int]], train: Sequence[File], path: Path) -> list[str]:
    labels = [len(sets[file.path]) for file in train]
    trained = {one for file in train for one in sets[file.path]}
    lacking = [name for place, name in enumerate(classes) if place not in trained]
    return [
        f"several labels an image: {sum(labels) / max(1, len(labels)):.2f} of {len(classes)} classes on average, "
        f"{counted(labels.count(0), 'image')} with none",
        *([f"{path.name} trains on no image of {listed(lacking)}"] if lacking else []),
    ]


def is_table(path: Path) -> bool:
    """Return true for the path of a CSV file."""
    return path.suffix.lower() == ".csv" and path.is_file()
