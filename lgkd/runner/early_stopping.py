"""Check that a training that may be stopped early has held-out images. No torch."""

from collections.abc import Callable

from lgkd.config import EarlyStopping
from lgkd.errors import InputError


def check_early_stopping(
    early_stopping: EarlyStopping | None, val_fraction: float | None, has_val: Callable[[], bool] = lambda: False
) -> None:
    """Refuse early stopping without held-out images: the test split decides nothing.

    Raises:
        InputError: there is early stopping, and no images are held out.
    """
    if early_stopping is not None and (val_fraction == 0 or (val_fraction is None and not has_val())):
        raise InputError(
            f"early_stopping.patience is {early_stopping.patience}, and no images are held out to judge the training "
            "on; hold out some with --val-fraction, put a split val beside test, or leave --patience out "
            "(--set early_stopping=null)"
        )
