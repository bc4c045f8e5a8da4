"""Check and prepare the folder of an inspection. No torch, so that errors are immediate."""

from pathlib import Path

from lgkd._internal.atomic_io import write_json
from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import is_untouched, make_folder

ABOUT = "inspect.json"


def check_folder(folder: Path) -> Path:
    """Return the folder if an inspection may be written there: new, empty, or holding an older one, finished or not.

    Raises:
        TakenError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder that is new or empty; choose another --out")
    if folder.is_dir() and not (folder / ABOUT).is_file() and not is_untouched(folder, ABOUT):
        raise TakenError(f"{folder} is not the folder of an inspection; nothing was touched. Choose another --out")
    return folder


def begin(folder: Path) -> None:
    """Create the folder and mark it as an inspection's before anything else, as the process may not finish."""
    make_folder(folder)
    write_json(folder / ABOUT, {"format": 1, "status": "running"})


def read_places(text: str) -> list[int]:
    """Parse indices such as "0,17,300".

    Raises:
        InputError: another format.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"--images is {text!r}, expected places in the test split, such as 0,17,300")
    return [int(word) for word in words]
