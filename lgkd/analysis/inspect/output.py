"""Where an inspection may be written. No torch, so that it is told at once."""

from pathlib import Path

from lgkd._internal.atomic_io import write_json
from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import is_untouched, make_folder

ABOUT = "inspect.json"


def check_folder(folder: Path) -> Path:
    """The folder, if an inspection may be written there: it is new or empty, or holds an older one, finished or not.

    Raises:
        TakenError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder that is new or empty; choose another --out")
    if folder.is_dir() and not (folder / ABOUT).is_file() and not is_untouched(folder, ABOUT):
        raise TakenError(f"{folder} holds something that is no inspection; nothing was touched. Choose another --out")
    return folder


def begin(folder: Path) -> None:
    """Make the folder, and mark it as an inspection's before anything else is in it; the end may not come."""
    make_folder(folder)
    write_json(folder / ABOUT, {"format": 1, "status": "running"})


def read_places(text: str) -> list[int]:
    """Places such as "0,17,300" as numbers.

    Raises:
        InputError: something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"--images is {text!r}, expected places in the test split, such as 0,17,300")
    return [int(word) for word in words]
