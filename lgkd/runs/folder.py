"""A run's folder: what is in it, and how it is written. People pass it on whole; nothing in it is a pickle."""

import csv
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any

from lgkd._internal.atomic_io import is_leftover_of, write_json, write_whole
from lgkd._internal.csv_tables import original, table
from lgkd._internal.git import git_state
from lgkd._internal.locks import LOCK
from lgkd._internal.manifest import MANIFEST, verify, write_manifest
from lgkd._internal.text import safe_text
from lgkd.errors import InputError, TakenError

RUN, RECIPE, ENV, METRICS = "run.json", "recipe.yaml", "env.json", "metrics.csv"
STUDENT_WEIGHTS, STUDENT = "student.safetensors", "student.json"
EXPORT = "export.json"
CHECKPOINTS = "checkpoint"
FORMAT = 1

_SMALL = (RUN, RECIPE, ENV, METRICS, STUDENT)

_PACKAGES = ("lgkd", "torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "pillow", "pydantic")
# Settings that change what a run computes. Nothing else of the environment is written down: it holds secrets.
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE")


def now() -> str:
    """The time in UTC, ISO form, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_free(folder: Path) -> bool:
    """Whether a run could be written into a folder; nothing is made.

    Returns:
        True where the folder is new or empty, or was left so by a process that was killed while it wrote the first
        file; False where it holds a run that was not finished, with which the same command goes on.

    Raises:
        TakenError: a file has that name, or the folder holds something else; nothing was touched.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder that is new or empty; choose another --out")
    if not folder.is_dir() or is_untouched(folder, RUN):
        return True
    try:
        read_run(folder)
        if not is_finished(folder):
            return False
    except InputError:
        pass
    raise TakenError(
        f"{folder} already holds {_what_is_in(folder)}; nothing was touched. Choose another --out, or move it away"
    )


def is_untouched(folder: Path, first: str) -> bool:
    """Whether a folder holds nothing, but for its lock and what is left of a file that was begun as the first in it.

    Args:
        folder: is one.
        first: the file's name.
    """
    return all(path.name == LOCK or is_leftover_of(path.name, first) for path in folder.iterdir())


def is_finished(folder: Path) -> bool:
    """Whether a finished run lies in a folder, which may be anything."""
    try:
        return bool(read_run(folder)["status"] == "finished")
    except InputError:
        return False


def finish_run(folder: Path, info: Mapping[str, Any]) -> None:
    """Make a run a finished one: the last thing that is written of it, once everything else is kept.

    Args:
        folder: of the run.
        info: the content of its run.json.
    """
    write_run(folder, {**info, "status": "finished"})
    seal(folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has saved anything to go on with."""
    try:
        names = [path.name for path in (folder / CHECKPOINTS).iterdir()]
    except OSError:
        return False
    return any(name.startswith("step-") and not name.endswith(".tmp") for name in names)


def claim(folder: Path) -> Path:
    """Make a new run's folder.

    Raises:
        TakenError: it holds something.
        InputError: it cannot be made.
    """
    if not check_free(folder):
        raise TakenError(f"{folder} already holds {_what_is_in(folder)}; nothing was touched. Choose another --out")
    return make_folder(folder)


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, if need be. InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); choose another place") from None
    return folder


def _what_is_in(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        try:
            verify(folder, _SMALL)
        except InputError as error:
            return f"what was finished and is damaged ({error})"
    try:
        run = read_run(folder)
        state = "a finished run" if run["status"] == "finished" else "an unfinished run"
        return f"{state} ({describe(run)})"
    except InputError:
        names = sorted(path.name for path in folder.iterdir())
        more = ", ..." if len(names) > 3 else ""
        what = f"{len(names)} things that are" if len(names) > 1 else "something that is"
        return f"{what} no run of lgkd ({', '.join(map(safe_text, names[:3]))}{more})"


def describe(run: Mapping[str, Any]) -> str:
    """A run in a few words: who was trained by whom on what."""
    teacher = run.get("teacher") or {}
    name = teacher.get("name") or teacher.get("class")
    by = f" guided by {_word(name)}" if name else ""
    return f"{_word(run['student']['name'])}{by} on {_word(run['dataset']['name'])}, seed {_word(run['seed'])}"


def _word(value: Any) -> str:
    # Names are whatever a stranger wrote, and stand in messages of one line.
    return safe_text(str(value), 200) if isinstance(value, str | int) else type(value).__name__


def seal(folder: Path) -> None:
    """Write the manifest of a run whose files are complete: from here on it is finished."""
    write_manifest(folder, (*_SMALL, STUDENT_WEIGHTS))


def read_run(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json, once its small files are found to be those of its manifest.

    A run that says it is finished and that it has a manifest, and has none, died before it was: its status is
    "running".

    Raises:
        InputError: no run lies there, its run.json cannot be read, or a file is not as the run wrote it.
    """
    file = folder / RUN
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected the folder of a run (it holds {RUN})")
    if not file.is_file():
        below = min(folder.glob(f"*/{RUN}"), default=None)
        if below is not None:
            raise InputError(
                f"{folder} holds several runs; name one of them, such as {below.parent} (to go on with all of them, "
                "repeat the command that began them)"
            )
        if (folder / EXPORT).is_file():
            raise InputError(
                f"{folder} holds an exported student and not its run; README.md in it has the figures, `lgkd predict` "
                "takes it; expected the folder of a run"
            )
        raise InputError(f"{folder} holds no {RUN}, so it is no run of lgkd; expected the folder of a run")
    verified = verify(folder, _SMALL)
    run = _read_json(
        file,
        {
            "kind": str,
            "status": str,
            "student.name": str,
            "teacher": dict | None,
            "dataset.name": str,
            "dataset.path": str | None,
            "dataset.data_dir": str | None,
            "seed": int,
            "device": _is_device,
            "precision": str,
        },
    )
    return run if verified or not run.get("manifest") else run | {"status": "running"}


def read_student(folder: Path) -> dict[str, Any]:
    """The content of a run's student.json: enough to rebuild the student without the recipe."""
    file = folder / STUDENT
    if not file.is_file():
        if (folder / RUN).is_file() and not is_finished(folder):
            raise InputError(f"{folder} is not finished; go on with it by: lgkd resume {folder}")
        raise InputError(f"{folder} holds no {STUDENT}; expected the folder of a finished run, or of an export")
    if not verify(folder, (STUDENT,)) and (folder / RUN).is_file() and _promises_manifest(folder):
        raise InputError(f"{folder} is not finished, it has no {MANIFEST} yet; go on with it by: lgkd resume {folder}")
    return _read_json(file, _OF_A_STUDENT)


def _promises_manifest(folder: Path) -> bool:
    try:
        return bool(read_run(folder).get("manifest"))
    except InputError:
        return False


def parse_student(text: str, origin: Path) -> dict[str, Any]:
    """As `read_student`, of a text that came from `origin`."""
    return _read_json(origin, _OF_A_STUDENT, text)


def _read_json(file: Path, needed: Mapping[str, Any], text: str | None = None) -> dict[str, Any]:
    """What a file holds, or `text`, if that was read from it already."""
    try:
        plain = file.read_text(encoding="utf-8") if text is None else text
        value = json.loads(plain, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); it is damaged or something else") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        # Whatever a stranger wrote there: in one line, and not at length.
        found = safe_text(str(found)) if isinstance(found, str | int | float | None) else type(found).__name__
        raise InputError(f"{file} has format {found}, this lgkd reads format {FORMAT}; use the lgkd that wrote it")
    wrong = [key for key, kind in needed.items() if not _is(_at(value, key), kind)]
    if wrong:
        raise InputError(f"{file} lacks a proper {', '.join(wrong)}; it is damaged or something else")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, or what a function says that it has to be."""
    return isinstance(value, kind) if isinstance(kind, type | UnionType) else kind(value)


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d{1,3})?", value) is not None


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and 0 < side < 2**16 for side in value)


def _is_mean(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_std(value: Any) -> bool:
    return _is_mean(value) and min(value) > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _at(value: Any, key: str) -> Any:
    """The value at a dotted key; a made-up type, which is none of those expected, where there is none."""
    for part in key.split("."):
        value = value.get(part, ...) if isinstance(value, dict) else ...
    return value


_OF_A_STUDENT: dict[str, Any] = {
    "name": str | None,
    "options": dict,
    "num_classes": int,
    "image_size": _is_size,
    "mean": _is_mean,
    "std": _is_std,
    "interpolation": str,
    "classes": list,
    "weights_sha256": str,
}


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write run.json whole."""
    write_json(folder / RUN, {"format": FORMAT, **run})


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Write metrics.csv whole: one row an epoch, a column for whatever any epoch measured."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_whole(folder / METRICS, table(columns, rows))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; cells that an epoch did not measure are left out.

    Raises:
        InputError: it is no table of numbers.
    """
    file = folder / METRICS
    if not file.is_file():
        return []
    verify(folder, (METRICS,))
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = [original(name) for name in reader.fieldnames or ()]
            return [{key: float(cell) for key, cell in row.items() if cell} for row in reader]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{file} is no table of numbers ({error}); it is damaged, take it from a copy") from None


def environment(device: str) -> dict[str, Any]:
    """What env.json holds: versions, device, threads, git state; only named variables of the environment."""
    import torch

    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "format": FORMAT,
        "python": sys.version.split()[0],
        "packages": {name: package_version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "git": git_state(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
