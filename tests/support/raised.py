"""Record where lgkd's errors are made, and their messages, over a whole session of tests.

Every process of the session appends to a file of its own in the folder that `LGKD_RECORD_ERRORS` names, as soon as it
sees something new, so that a process which dies has recorded, too. Processes that a test starts afresh with another
interpreter are not seen.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lgkd
from lgkd.config.problems import Problem
from lgkd.data.sources.download import _Failed
from lgkd.errors import LgkdError
from tests import CHECKOUT
from tools.messages import error_places, read_record, unreached

VARIABLE = "LGKD_RECORD_ERRORS"
_PACKAGE = os.fspath(Path(lgkd.__file__).parent) + os.sep
_seen: set[str] = set()
_file: list[int] = []

OUT_OF_REACH: dict[str, str] = {
    "mixing with cached guidance needs": "only one of several processes of their own comes there",
    "the hub did not take": "tests/deploy/test_hub.py pushes from a process that knows a hub of its own",
    "expected the files of `lgkd export --push`": "and pulls from such a process",
}
"""Places that no test can have reached in a process that is watched, each by words of its message, with the reason."""

NEEDS = {
    "data/sources/hugging_face.py": "datasets",
    "data/sources/parquet.py": "pyarrow",
    "deploy/formats.py": "onnx",
    "deploy/inference/onnx.py": "onnxruntime",
    "models/huggingface.py": "transformers",
}
"""Files whose tests need a package that is not always installed."""

_PARTS = re.compile(r"[;:(]|, (?:expected|not|but|which|whose|and|so|since|choose)\b| but ")
_REPORTS = {"Paused", "Interrupted", "Problem", "_Failed"}
"""The end of a run by time or signal, and what becomes a part of another message."""


def record_errors() -> None:
    """Have every error of lgkd recorded from now on, if a folder for that is named."""
    if os.environ.get(VARIABLE):
        # Opened once, since tests count the files that are opened; a forked child appends to the same one.
        _file.append(os.open(f"{os.environ[VARIABLE]}/{os.getpid()}.tsv", os.O_CREAT | os.O_APPEND | os.O_WRONLY))
        _wrap(LgkdError, "__init__")
        _wrap(_Failed, "__init__")
        _wrap(Problem, "__new__")


def _wrap(kind: type, method: str) -> None:
    made: Callable[..., Any] = getattr(kind, method)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = made(self, *args, **kwargs)
        _record(self if isinstance(self, type) else type(self), str(args[0]) if args else "")
        return result

    setattr(kind, method, recorded)


def _record(kind: type, message: str) -> None:
    rows = ["said\t" + kind.__name__ + "\t" + message.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", " ")]
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename == _PACKAGE + "errors.py":
        frame = frame.f_back  # the constructor of a subclass
    if frame is None or not frame.f_code.co_filename.startswith(_PACKAGE):
        return  # a test made it
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            rows.append(f"place\t{name.removeprefix(_PACKAGE)}\t{frame.f_lineno}")
        frame = frame.f_back
    new = [row for row in rows if row not in _seen]
    if new:
        _seen.update(new)
        # Bare calls: a test may stand in for those of pathlib, fill the disk, or bound the size of files.
        with suppress(OSError):
            os.write(_file[0], "".join(row + "\n" for row in new).encode("utf-8", "backslashreplace"))


def is_whole_suite(config: pytest.Config) -> bool:
    """Tell whether a session is the controller's and runs every test."""
    chosen = config.option
    narrowed = (
        chosen.keyword
        or chosen.markexpr not in ("", "not standin")
        or getattr(chosen, "lf", False)
        or chosen.collectonly
    )
    folders = {(config.invocation_params.dir / one).resolve() for one in config.args}
    return not (hasattr(config, "workerinput") or narrowed) and folders <= {CHECKOUT, CHECKOUT / "tests"}


def problems() -> list[str]:
    """List the places at which no error was made so far, and the messages that lack a part."""
    reached, said = read_record(Path(os.environ[VARIABLE]))
    missed = [f"no test has this raised: {place}" for place in unreached(error_places(), reached)]
    missed = [one for one in missed if not any(words in one for words in OUT_OF_REACH)]
    absent = [file for file, package in NEEDS.items() if find_spec(package) is None]
    missed = [one for one in missed if not any(file in one for file in absent)]
    return missed + [f"{kind}: {text}: {fault}" for kind, text in sorted(said) for fault in faults_of(kind, text)]


def faults_of(kind: str, text: str) -> list[str]:
    """Name the faults of a message: its parts are what was found, what was expected, and what to do.

    A message is one line, or a headline with a list below. It has at least two parts, set off from each other, since
    what was found does not tell what to do; only the end of a run by time or signal is a report without advice.
    """
    faults = []
    head = text.splitlines()[0] if text else ""
    if not head.strip():
        faults.append("it is empty")
    elif not _PARTS.search(text) and kind not in _REPORTS:
        faults.append("it has one part; say what was expected or what to do after a semicolon or colon")
    if head.rstrip().endswith(".") and not head.rstrip().endswith("..."):
        faults.append("it ends with a full stop")
    if "Traceback (most" in text or " object at 0x" in text:
        faults.append("it shows what only a developer reads")
    return faults
