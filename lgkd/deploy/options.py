"""Check the options of an export, and that it can be written. No torch in here."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lgkd._internal.text import did_you_mean
from lgkd.deploy.requirements import check_onnx_is_here
from lgkd.errors import InputError, MissingError, TakenError

FORMATS = {
    "safetensors": "student.safetensors",
    "onnx": "student.onnx",
    "onnx-fp16": "student-fp16.onnx",
    "onnx-int8": "student-int8.onnx",
    "torch-export": "student.pt2",
}
"""Every format and its file."""

FEWER_BITS = ("onnx-fp16", "onnx-int8")
"""Formats whose logits differ from the student's, so that their accuracy is measured; written only if named."""

LEAST_OPSET = 13
"""First version of ONNX's operators with a scale for each channel of a quantised weight."""

MAX_DROP = 1.0
"""Largest loss of accuracy, in points, of a file in fewer bits."""

CARD = "README.md"


def choose_formats(wanted: Sequence[str] | None, say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the formats to write, each once; by default those of 32 bits, ONNX only where its extra is installed.

    Raises:
        InputError: a format is unknown.
        MissingError: ONNX is asked for, and the extra is not installed.
    """
    if wanted is None:
        try:
            check_onnx_is_here()
        except MissingError as error:
            say(f"the ONNX file is left out: {error}")
            return tuple(name for name in FORMATS if not name.startswith("onnx"))
        return tuple(name for name in FORMATS if name not in FEWER_BITS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"unknown export format {unknown[0]!r}; {did_you_mean(unknown[0], FORMATS)}")
    if not wanted:
        raise InputError(f"no export format is named; {did_you_mean('', FORMATS)}")
    if any(name.startswith("onnx") for name in wanted):
        check_onnx_is_here()
    return tuple(name for name in FORMATS if name in wanted)


def check_opset(opset: int | None, formats: Sequence[str]) -> None:
    """Check the version of ONNX's operators.

    Raises:
        InputError: it is too old, or no ONNX file is written.
    """
    if opset is None:
        return
    if opset < LEAST_OPSET:
        raise InputError(f"--opset is {opset}, expected {LEAST_OPSET} or more")
    if not any(name.startswith("onnx") for name in formats):
        raise InputError(f"--opset {opset} is for ONNX files, and none is written; add --format onnx, or leave it out")


def check_max_drop(max_drop: float) -> None:
    """Check the largest loss of accuracy.

    Raises:
        InputError: it is not between 0 and 100 points.
    """
    if not 0 <= max_drop <= 100:
        raise InputError(f"--max-drop is {max_drop:g}, expected points of accuracy between 0 and 100, like 1.0")


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
