"""Check that what is selected on held-out images has such images: the epoch, or an early stop. No torch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lgkd._internal.metric_rules import SELECT_BY, SELECT_LABELS_BY, SELECTING
from lgkd.config import EarlyStopping
from lgkd.data.sources.source import find_source
from lgkd.errors import InputError, MissingError

if TYPE_CHECKING:
    from lgkd.data.dataset import DataSet


def check_selection(
    select_by: str | None, val_fraction: float | None, has_val: Callable[[], bool] = lambda: False
) -> None:
    """Check the metric that selects the epoch.

    Args:
        select_by: name of the metric; None for the default.
        val_fraction: share of the training images that is held out; 0 to select nothing.
        has_val: called where nothing is held out; returns whether the data set has a split val.

    Raises:
        InputError: it is unknown, or there are no images to select on.
    """
    if select_by is None:
        return
    if select_by not in SELECTING:
        raise InputError(
            f"--select-by is {select_by!r}, expected one of {', '.join(SELECT_BY)}; of several labels an image one of "
            f"{', '.join(SELECT_LABELS_BY)}"
        )
    if not _holds_out(val_fraction, has_val):
        raise InputError(
            f"--select-by {select_by} selects an epoch, and without held-out images the last one counts; hold out some "
            "with --val-fraction, or put a split val beside test"
        )


def check_early_stopping(
    early_stopping: EarlyStopping | None, val_fraction: float | None, has_val: Callable[[], bool] = lambda: False
) -> None:
    """Refuse early stopping without held-out images: the test split decides nothing.

    Args:
        early_stopping: of a recipe.
        val_fraction, has_val: as of `check_selection`.

    Raises:
        InputError: there is early stopping, and no images are held out.
    """
    if early_stopping is not None and not _holds_out(val_fraction, has_val):
        raise InputError(
            f"early_stopping.patience is {early_stopping.patience}, and no images are held out to judge the training "
            "on; hold out some with --val-fraction, put a split val beside test, or leave --patience out "
            "(--set early_stopping=null)"
        )


def _holds_out(val_fraction: float | None, has_val: Callable[[], bool]) -> bool:
    return has_val() if val_fraction is None else val_fraction != 0


def has_val(dataset: "str | Path | DataSet") -> bool:
    """Return whether a data set has a split val; True where it is not downloaded yet."""
    if not isinstance(dataset, str | Path):
        return dataset.val is not None
    source = find_source(dataset, offline=True)
    try:
        return source.place is not None and bool(source.listing(fault=lambda _: None).val)
    except MissingError:
        return True
