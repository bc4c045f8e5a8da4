"""Read the labels of a table with several labels an image, and list its images. No torch.

Two forms, told apart by the header:

- lists: a column `labels` (or `tags`), as in `a.jpg,cat;dog`. The lists of a table are separated by the first of `;`
  `|` `,` that any of them contains, so that names may have spaces, and commas where `;` separates.
- one column a class: for every class a column of 0 and 1 whose header is its name.

An image without a class is an example of none.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lgkd._internal.text import counted, listed, safe_text
from lgkd.data.sources.rows import GROUPS, LABELS, LISTS, PATHS, SPLITS
from lgkd.errors import DataError

SEPARATORS: Final = (";", "|", ",")

_IS: Final = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_LEAST = 2
"""Columns of 0 and 1 that are taken as classes."""

LabelsOf = Callable[[int, Sequence[Any]], tuple[str, ...]]
"""Returns the classes of a row, sorted, from its number and cells."""


def is_multi_label(header: Sequence[str], first: Sequence[Any] = ()) -> bool:
    """Return True if a table has several labels an image.

    It has no column of one label, such as `label` or `class`; and it has a column of lists, or its first row has 0 or 1
    in at least two other columns.

    Args:
        header: names of the columns.
        first: cells of the first row.
    """
    names = [name.strip().lower() for name in header]
    if any(name in LABELS and name not in LISTS for name in names):
        return False
    if any(name in LISTS for name in names):
        return True
    cells = dict(zip(names, first, strict=False))
    others = [name for name in names if name not in (*PATHS, *SPLITS, *GROUPS)]
    return sum(str(cells.get(name, "")).strip().lower() in _IS for name in others) >= _LEAST


def label_columns(header: Sequence[str], apart: Iterable[str], place: str) -> list[str]:
    """Return the columns of the labels: that of lists, else one for every class.

    Args:
        header: names of the columns, each once.
        apart: those of path, split and group.
        place: the table, for messages.

    Raises:
        DataError: there are several columns of lists.
    """
    lists = [name for name in header if name.strip().lower() in LISTS]
    if len(lists) > 1:
        raise DataError(f"{place} has several columns of lists of labels: {listed(lists)}; expected one, remove others")
    used = set(apart)
    return lists or [name for name in header if name not in used]


def read_labels(header: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[Any]], place: str) -> LabelsOf:
    """Make the function that reads the labels of a row.

    Args:
        header: names of the columns.
        columns: those of the labels, as of `label_columns`.
        rows: all cells, among whose lists the separator is found.
        place: the table, for messages.
    """
    places = [header.index(name) for name in columns]
    separator = _separator(row[places[0]] for row in rows if places[0] < len(row))

    def labels_of(number: int, row: Sequence[Any]) -> tuple[str, ...]:
        if places[-1] >= len(row):
            raise DataError(
                f"{place}:{number} has {counted(len(row), 'cell')}, expected {len(header)} as in the header; mend the "
                "row"
            )
        if is_lists(columns):
            return _listed(row[places[0]], separator)
        found = (name for name, at in zip(columns, places, strict=True) if _is(row[at], name, f"{place}:{number}"))
        return tuple(sorted(found))

    return labels_of


def is_lists(columns: Sequence[str]) -> bool:
    """Return True for the columns of `label_columns` that are one of lists."""
    return len(columns) == 1 and columns[0].strip().lower() in LISTS


def _separator(cells: Iterable[Any]) -> str | None:
    """Return the first separator that any text has; None where all lists have one class at most."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return next((sign for sign in SEPARATORS if any(sign in text for text in texts)), None)


def _listed(cell: Any, separator: str | None) -> tuple[str, ...]:
    parts = (cell.split(separator) if separator else [cell]) if isinstance(cell, str) else cell or ()
    return tuple(sorted({name for part in parts if (name := str(part).strip())}))


def _is(cell: Any, name: str, where: str) -> bool:
    found = _IS.get(str(cell).strip().lower())
    if found is None:
        raise DataError(
            f"{where} has {safe_text(str(cell), 40)!r} in the column {safe_text(name)!r}, expected 0 or 1; "
            "correct the cell, or remove the column if it is not a class"
        )
    return found
