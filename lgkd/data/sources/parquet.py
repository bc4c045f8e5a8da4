"""Read columns of a Parquet file as text, by pyarrow. No torch."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from lgkd.errors import DataError, MissingError


def read_parquet(
    file: Path, wanted: Callable[[Sequence[str]], Sequence[str]], lists: Collection[str] = ()
) -> tuple[tuple[str, ...], Sequence[tuple[int, Sequence[Any]]]]:
    """Read some columns.

    Args:
        file: of the table.
        wanted: returns the names to read, of those of all columns.
        lists: names in lower case of columns whose cells may be lists, which stay lists.

    Returns:
        The names of all columns, those that were read first; and the rows of these, each with its number from 1.

    Raises:
        DataError: it cannot be read, or a column holds images or lists.
        MissingError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingError(
            f"{file} is a Parquet file, and pyarrow is not installed; get it by: pip install 'lgkd[parquet]'"
        ) from None
    try:
        names = [str(name) for name in parquet.read_schema(file).names]
        read = [*wanted(names)]
        table = parquet.ParquetFile(file).read(columns=read)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet ({' '.join(str(error).split())}); save it again") from None
    nested = [
        field.name
        for field in table.schema
        if pyarrow.types.is_nested(field.type)
        and not (pyarrow.types.is_list(field.type) and field.name.strip().lower() in lists)
    ]
    if nested:
        raise DataError(
            f"{file} has a column {nested[0]} of images or lists, expected paths; read it with datasets' "
            "load_dataset('parquet', ...) and name the folder of its save_to_disk"
        )
    columns = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    kept = [str(name) for name in table.column_names]
    rows = list(enumerate(zip(*columns, strict=True), 1))
    return (*kept, *(name for name in names if name not in kept)), rows


def _as_text(value: Any) -> Any:
    """Return a cell as text; whole numbers of a column with gaps, which are floats then, without decimals."""
    if isinstance(value, list):
        return value
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
