"""Lay out the folders of several seeds or folds of one training."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import RUN

COMPARISON = "comparison"
"""Base name of the files of a sweep's comparison, with .json, .csv and .png."""

Kind = Literal["guided", "unguided", "teacher"]
_MEMBER = re.compile(r"seed\d+(-fold\d+)?-(guided|unguided|teacher)")


def read_seeds(text: str) -> list[int]:
    """Parse a list of seeds, as in "0,1,2".

    Raises:
        InputError: the text is something else, or has a seed twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise InputError(f"--seeds {text!r} is not a list of whole numbers; write it like --seeds 0,1,2")
    return check_seeds([int(word) for word in words])


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Check that seeds are valid and distinct, and return them.

    Raises:
        InputError: there are none, or one is negative or repeated.
    """
    if not seeds:
        raise InputError("there are no seeds; give at least one, such as 0,1,2")
    for seed in seeds:
        if seed < 0:
            raise InputError(f"a seed is {seed}, expected 0 or more")
        if list(seeds).count(seed) > 1:
            raise InputError(f"the seed {seed} is given twice; name each seed once")
    return list(seeds)


def member(folder: Path, seed: int, kind: Kind, fold: int | None = None) -> Path:
    """Return the folder of one run of a sweep."""
    return folder / f"seed{seed}{'' if fold is None else f'-fold{fold}'}-{kind}"


def check_series(folder: Path) -> None:
    """Check that a sweep can be written or resumed in a folder; nothing is created.

    Raises:
        TakenError: a file has that name, or the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder for several runs; choose another --out")
    if (folder / RUN).is_file():
        raise TakenError(f"{folder} is the folder of one run, and several need one of their own; choose another --out")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # A report beside the runs does not prevent a resume.
    if names and not any(_MEMBER.fullmatch(name) for name in names):
        raise TakenError(
            f"{folder} already holds {names[0]} and no runs of a sweep (seed0-guided and similar); nothing was "
            "touched. Choose another --out"
        )
