"""Check what is asked of a pruning. No torch, so that errors are immediate."""

import math
from pathlib import Path

from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import check_free, is_finished, read_run, read_student


def check_request(
    run: Path, out: Path, keep: float, keep_heads: float | None, keep_units: float | None, images: int
) -> tuple[float, float]:
    """Check folders and shares; return the share of heads and that of MLP units that are kept.

    Raises:
        InputError: no finished run, or a number out of range.
        TakenError: the new folder is taken.
    """
    read_run(run)
    if not is_finished(run):
        raise InputError(f"{run} is not finished; resume it by: lgkd resume {run}")
    read_student(run)
    shares = keep if keep_heads is None else keep_heads, keep if keep_units is None else keep_units
    for share in (keep, *shares):
        if not (math.isfinite(share) and 0 < share <= 1):
            raise InputError(f"the kept share is {share}, expected above 0 and at most 1, such as 0.6")
    if images < 1:
        raise InputError(f"{images} images were asked for to measure importance on, expected 1 or more")
    if not check_free(out):
        raise TakenError(f"{out} holds an unfinished run; nothing was touched. Choose another --out")
    return shares
