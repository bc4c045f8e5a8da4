"""Read and write a run's folder. Runs are shared as folders; nothing in them is a pickle."""

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

from lgkd._internal.atomic_io import is_leftover_of, write_atomic, write_json
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
# Settings that change what a run computes. Nothing else of the environment is stored: it holds secrets.
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE")


def now() -> str:
    """Return the time in UTC, ISO form, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_free(folder: Path) -> bool:
    """Check that a run can be written to a folder; nothing is created.

    Returns:
        True where the folder is new or empty, or was left so by a process that was killed while it wrote the first
        file; False where it holds an unfinished run, which the same command resumes.

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
    """Return whether a folder is empty except for its lock and leftovers of an incomplete first file.

    Args:
        folder: an existing folder.
        first: the name of the file that is written first.
    """
    return all(path.name == LOCK or is_leftover_of(path.name, first) for path in folder.iterdir())


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run."""
    try:
        return bool(read_run(folder)["status"] == "finished")
    except InputError:
        return False


def finish_run(folder: Path, info: Mapping[str, Any]) -> None:
    """Mark a run as finished: the last write, after everything else is stored.

    Args:
        folder: of the run.
        info: the content of its run.json.
    """
    write_run(folder, {**info, "status": "finished"})
    seal(folder)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has a checkpoint to resume from."""
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
    """Create a folder and its parents. InputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
    return folder


def _what_is_in(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        try:
            verify(folder, _SMALL)
        except InputError as error:
            return f"a finished run that is damaged ({error})"
    try:
        run = read_run(folder)
        state = "a finished run" if run["status"] == "finished" else "an unfinished run"
        return f"{state} ({describe(run)})"
    except InputError:
        names = sorted(path.name for path in folder.iterdir())
        more = ", ..." if len(names) > 3 else ""
        count = "a file or folder" if len(names) == 1 else f"{len(names)} files or folders"
        return f"{count} not of an lgkd run ({', '.join(map(safe_text, names[:3]))}{more})"


def describe(run: Mapping[str, Any]) -> str:
    """Describe a run in a few words: student, teacher, data set and seed."""
    teacher = run.get("teacher") or {}
    name = teacher.get("name") or teacher.get("class")
    by = f" guided by {_word(name)}" if name else ""
    return f"{_word(run['student']['name'])}{by} on {_word(run['dataset']['name'])}, seed {_word(run['seed'])}"


def _word(value: Any) -> str:
    # Names come from untrusted files, and go into one-line messages.
    return safe_text(str(value), 200) if isinstance(value, str | int) else type(value).__name__


def seal(folder: Path) -> None:
    """Write the manifest of a run whose files are complete, which makes it finished."""
    write_manifest(folder, (*_SMALL, STUDENT_WEIGHTS))


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run's run.json after verifying its small files against its manifest.

    A run whose status is "finished" and that should have a manifest but has none died before it was finished: its
    status is "running".

    Raises:
        InputError: there is no run, its run.json cannot be read, or a file is not as the run wrote it.
    """
    file = folder / RUN
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected the folder of a run (it holds {RUN})")
    if not file.is_file():
        below = min(folder.glob(f"*/{RUN}"), default=None)
        if below is not None:
            raise InputError(
                f"{folder} holds several runs; name one of them, such as {below.parent} (to resume all of them, "
                "repeat the command that started them)"
            )
        if (folder / EXPORT).is_file():
            raise InputError(
                f"{folder} holds an exported student, not its run; README.md in it has the results, `lgkd predict` "
                "accepts it; expected the folder of a run"
            )
        raise InputError(f"{folder} holds no {RUN}, so it is not an lgkd run; expected the folder of a run")
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
    """Read a run's student.json, which suffices to rebuild the student without the recipe."""
    file = folder / STUDENT
    if not file.is_file():
        if (folder / RUN).is_file() and not is_finished(folder):
            raise InputError(f"{folder} is not finished; resume it by: lgkd resume {folder}")
        raise InputError(f"{folder} holds no {STUDENT}; expected the folder of a finished run, or of an export")
    if not verify(folder, (STUDENT,)) and (folder / RUN).is_file() and _promises_manifest(folder):
        raise InputError(f"{folder} is not finished, it has no {MANIFEST} yet; resume it by: lgkd resume {folder}")
    return _read_json(file, _OF_A_STUDENT)


def _promises_manifest(folder: Path) -> bool:
    try:
        return bool(read_run(folder).get("manifest"))
    except InputError:
        return False


def parse_student(text: str, origin: Path) -> dict[str, Any]:
    """Parse student.json from a text that was read from `origin`."""
    return _read_json(origin, _OF_A_STUDENT, text)


def _read_json(file: Path, needed: Mapping[str, Any], text: str | None = None) -> dict[str, Any]:
    """Parse and validate a JSON file, or `text` if it was read already."""
    try:
        plain = file.read_text(encoding="utf-8") if text is None else text
        value = json.loads(plain, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); it is damaged or something else") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        # Untrusted content: shown in one line, shortened.
        found = safe_text(str(found)) if isinstance(found, str | int | float | None) else type(found).__name__
        raise InputError(f"{file} has format {found}, this lgkd reads format {FORMAT}; use the lgkd that wrote it")
    wrong = [key for key, kind in needed.items() if not _is(_at(value, key), kind)]
    if wrong:
        raise InputError(f"{file} lacks a proper {', '.join(wrong)}; it is damaged or something else")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is(value: Any, kind: Any) -> bool:
    """Check a value against a type or a predicate."""
    return isinstance(value, kind) if isinstance(kind, type | UnionType) else kind(value)


def _is_device(value: Any) -> bool:
    # "cpu", "cuda", or a backend that was registered with torch: its name need not be known here.
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,30}(:\d{1,3})?", value) is not None


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and 0 < side < 2**16 for side in value)


def _is_mean(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (1, 3) and all(map(_is_number, value))


def _is_std(value: Any) -> bool:
    return _is_mean(value) and min(value) > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _at(value: Any, key: str) -> Any:
    """Return the value at a dotted key, or `...`, which matches no expected type, where there is none."""
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
    """Write run.json atomically."""
    write_json(folder / RUN, {"format": FORMAT, **run})


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Write metrics.csv atomically: one row per epoch, a column for every quantity measured in any epoch."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_atomic(folder / METRICS, table(columns, rows))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read the rows of metrics.csv; empty cells are left out.

    Raises:
        InputError: it is not a table of numbers.
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
        raise InputError(f"{file} is not a table of numbers ({error}); it is damaged, take it from a copy") from None


def environment(device: str) -> dict[str, Any]:
    """Return the content of env.json: versions, device, threads, git state; only listed environment variables."""
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
