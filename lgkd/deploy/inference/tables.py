"""Name images to predict by a table of several labels an image, whose true labels are then known. No torch in here."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lgkd.data.multi_label import is_multi_label, is_table, parse_rows, read_rows


def expand_tables(names: Iterable[str | Path]) -> tuple[list[str | Path], Mapping[Path, tuple[str, ...]]]:
    """Replace tables among the names of images by the images that they list.

    Args:
        names: of files and folders, or patterns; a CSV file of several labels an image is a table.

    Returns:
        The names, and the true labels of the images of tables, sorted.

    Raises:
        DataError: a table has another form.
    """
    expanded: list[str | Path] = []
    truths: dict[Path, tuple[str, ...]] = {}
    for name in names:
        path = Path(name)
        if not is_table(path) or not is_multi_label(*_beginning(path)):
            expanded.append(name)
            continue
        for row in parse_rows(*read_rows(path), path.name).rows:
            expanded.append(path.parent / row.path)
            truths[path.parent / row.path] = tuple(sorted(row.classes))
    return expanded, truths


def _beginning(path: Path) -> tuple[list[str], list[str]]:
    header, rows = read_rows(path)
    return header, rows[0]
