"""Check the options of an export, and that it can be written. No torch in here."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lgkd._internal.text import did_you_mean
from lgkd.deploy.inference.requirements import check_onnx_is_here
from lgkd.errors import InputError, MissingError, TakenError

FORMATS = {
    "safetensors": "student.safetensors",
    "onnx": "student.onnx",
    "torch-export": "student.pt2",
}
"""Every format and its file."""

CARD = "README.md"


def choose_formats(wanted: Sequence[str] | None, say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the formats to write, each once; all of them by default, ONNX only where its extra is installed.

    Raises:
        InputError: a format is unknown.
        MissingError: ONNX is asked for, and the extra is not installed.
    """
    if wanted is None:
        try:
            check_onnx_is_here()
        except MissingError as error:
            say(f"the ONNX file is left out: {error}")
            return tuple(name for name in FORMATS if name != "onnx")
        return tuple(FORMATS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"unknown export format {unknown[0]!r}; {did_you_mean(unknown[0], FORMATS)}")
    if not wanted:
        raise InputError(f"no export format is named; {did_you_mean('', FORMATS)}")
    if "onnx" in wanted:
        check_onnx_is_here()
    return tuple(name for name in FORMATS if name in wanted)


def export_folder(run: Path, out: str | Path | None) -> Path:
    """Return the folder of an export: the named one, else one below exports/ with the name of the run.

    Raises:
        TakenError: the folder is not empty; nothing was touched.
    """
    folder = Path(out).expanduser() if out is not None else Path("exports") / _called(run.resolve())
    check_new_or_empty(folder, "--out", "to export to")
    return folder


def check_new_or_empty(folder: Path, option: str, purpose: str) -> None:
    """Check that a folder does not exist or holds nothing.

    Args:
        folder: to be written to.
        option: that names it, for the message.
        purpose: "to export to".

    Raises:
        TakenError: it is a file or holds something; nothing was touched.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(
            f"{folder} is a file, expected a folder that is new or empty {purpose}; choose another {option}"
        )
    if folder.is_dir() and any(folder.iterdir()):
        first = min(path.name for path in folder.iterdir())
        raise TakenError(
            f"{folder} already holds {first!r}; nothing was touched. Choose another {option} {purpose}, or move it away"
        )


def _called(run: Path) -> str:
    """Return a run's name; one of a series, which is called seed0 or seed0-guided, brings the name of its series."""
    return f"{run.parent.name}_{run.name}" if re.fullmatch(r"seed\d+(-\w+)?", run.name) else run.name
