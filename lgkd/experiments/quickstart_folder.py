"""Lock the quickstart's folder for one process, and resume in it.

BEGUN is in it from start to end and holds the choices; a folder without it is finished, or belongs to
something else.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_json
from lgkd.errors import BusyError, TakenError
from lgkd.runs.folder import RUN, claim, is_untouched, make_folder
from lgkd.runs.identity import lock_run

BEGUN = "quickstart.json"


@contextmanager
def begun(out: Path | None, choices: Mapping[str, Any]) -> Iterator[Path]:
    """Lock a folder for a quickstart, and mark it as finished when the block ends.

    Args:
        out: new, empty, or left by a quickstart of the same choices; None for the first of ./quickstart, ./quickstart-2
            and so on that is one of these and in which no process runs: repeating a finished one keeps both.
        choices: in plain JSON values.

    Raises:
        TakenError: `out` holds something else.
        BusyError: another process is running in it.
    """
    folder, held = _take(out, choices)
    with held:
        write_json(folder / BEGUN, dict(choices))
        yield folder
        (folder / BEGUN).unlink()


def _take(out: Path | None, choices: Mapping[str, Any]) -> tuple[Path, ExitStack]:
    """Return the folder, and the stack that holds its lock."""
    for number in count(1):
        folder = out or Path("quickstart" if number == 1 else f"quickstart-{number}")
        with ExitStack() as held:
            try:
                # Checked again once it is locked: another process may have started there meanwhile.
                if _is_open(folder, choices):
                    held.enter_context(lock_run(make_folder(folder)))
                    if _is_open(folder, choices):
                        return folder, held.pop_all()
            except BusyError:
                if out is not None:
                    raise
        if out is not None:
            _refuse(folder, choices)
    raise AssertionError


def _is_open(folder: Path, choices: Mapping[str, Any]) -> bool:
    """Check that a quickstart can begin or be resumed in a folder."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    return is_untouched(folder, BEGUN) or is_untouched(folder, RUN) or _choices_in(folder) == choices


def _choices_in(folder: Path) -> Any:
    try:
        return json.loads((folder / BEGUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _refuse(folder: Path, choices: Mapping[str, Any]) -> None:
    """Raise TakenError, with the folder's content."""
    found = _choices_in(folder)
    if isinstance(found, dict) and found.keys() == choices.keys():
        changes = ", ".join(f"{key} {json.dumps(found[key])}" for key in choices if found[key] != choices[key])
        raise TakenError(
            f"{folder} holds a quickstart of other choices that was stopped ({changes}); nothing was touched. "
            "Repeat it with these, or choose another --out"
        )
    claim(folder)
