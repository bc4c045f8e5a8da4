"""Check which runs can be measured under corruptions. No torch, so that errors are immediate."""

from lgkd.errors import InputError
from lgkd.runs.compare import Comparison

_FEWEST = 32


def check_request(comparison: Comparison, most: int | None) -> None:
    """Refuse runs that have no test images in common, or labels that the measures are not defined for.

    Raises:
        InputError: runs of several labels an image, or of folds, or too few images.
    """
    if most is not None and most < _FEWEST:
        raise InputError(f"{most} images were asked for to measure on, expected {_FEWEST} or more")
    runs = [run for group in comparison.groups for run in group.runs]
    for run in runs:
        if run.headline.key == "map":
            raise InputError(
                f"{run.folder} gives several labels an image, and corruption errors are of one; expected runs of one "
                "label: use `lgkd evaluate` and `lgkd report`"
            )
        if run.fold is not None and run.pair[1] != runs[0].pair[1]:
            raise InputError(
                f"{run.folder} is tested on fold {run.fold} and {runs[0].folder} on other images, expected the same "
                "test images for all runs; measure the runs of one fold at a time"
            )
