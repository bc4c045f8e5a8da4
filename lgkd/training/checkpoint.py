"""Read and write checkpoints: named parts as safetensors and JSON, written atomically and verified when read.

    checkpoint/
      step-00000120/   the previous one, kept in case the newest is corrupt
      step-00000240/   student.safetensors, optimizer.safetensors, meters.safetensors, ..., state.json, MANIFEST.json
      best/            the student of the best epoch on held-out images, where there are any

A checkpoint is written into a folder of another name, every file and the folder are flushed to the disk, and only then
is it renamed. MANIFEST.json holds size and SHA-256 of every file. Nothing in it is a pickle.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from lgkd._internal.atomic_io import flush_folder
from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd._internal.safetensors_io import UNREADABLE
from lgkd._internal.text import safe_text
from lgkd.errors import InputError

MANIFEST, STATE = "MANIFEST.json", "state.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_KEPT = 2
_PART = re.compile(r"[a-z_]+")

FAULT_VARIABLE = "LGKD_FAULT_POINT"
"""Name of an environment variable that makes the process die at a named point of a save; for tests."""


@dataclass(frozen=True)
class Checkpoint:
    """Hold the content of a checkpoint.

    Attributes:
        step: number of optimiser steps.
        tensors: for each named part its tensors, on the CPU.
        state: everything that is not a tensor.
        folder: in which it is stored.
        damaged: newer checkpoints that were skipped, each with the reason.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    folder: Path
    damaged: tuple[str, ...] = field(default=())


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step and delete all but the last two; return its folder.

    Raises:
        InputError: the disk is full or the folder cannot be written; older checkpoints are untouched.
    """
    return _save(root, f"step-{step:08d}", tensors, {**state, "step": step}, after=lambda: _drop_old(root))


def save_best(root: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Replace the best checkpoint so far."""
    return _save(root, "best", tensors, state, after=lambda: None)


def _save(
    root: Path,
    name: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    after: Callable[[], None],
) -> Path:
    target, passing = root / name, root / f"{name}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(passing, ignore_errors=True)
        passing.mkdir()
        manifest: dict[str, dict[str, Any]] = {}
        for part, values in tensors.items():
            assert _PART.fullmatch(part), part
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in values.items()}
            _write(passing / f"{part}.safetensors", save(plain), manifest)
        _write(passing / STATE, _json({"format": FORMAT, **state}), manifest)
        _write(passing / MANIFEST, _json({"format": FORMAT, "files": manifest}), None)
        flush_folder(passing)
        _fault("before-rename")
        # A folder of that name is either the same step, saved before, or the best one to be replaced.
        old = root / f"{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
            _fault("between-renames")
        passing.rename(target)
        _fault("after-rename")
        flush_folder(root)
        shutil.rmtree(old, ignore_errors=True)
        _fault("before-dropping")
        after()
        _fault("after-dropping")
    except OSError as error:
        shutil.rmtree(passing, ignore_errors=True)
        free = shutil.disk_usage(root).free if root.exists() else 0
        needed = sum(value.nbytes for values in tensors.values() for value in values.values())
        raise InputError(
            f"the checkpoint {target} could not be written ({error.strerror}; {needed / 1e6:,.0f} MB needed, "
            f"{free / 1e6:,.0f} MB free); the ones before it are untouched. Make room and run the same command again"
        ) from error
    return target


def load_newest(root: Path) -> Checkpoint | None:
    """Load the newest valid checkpoint; return None if there is none.

    Raises:
        InputError: all checkpoints are corrupt; the message lists each with the reason.
    """
    damaged: list[str] = []
    for folder in _newest_first(root):
        try:
            tensors, state = read_checkpoint(folder)
            if type(state.get("step")) is not int:
                raise InputError(f"{folder / STATE} does not say of which step it is; it is damaged")
        except InputError as error:
            damaged.append(str(error))
            continue
        return Checkpoint(state["step"], tensors, state, folder, tuple(damaged))
    if damaged:
        raise InputError(
            "no checkpoint can be used: " + "; ".join(damaged) + ". Move the run's folder away to start again"
        )
    return None


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read the parts and the state of a checkpoint after verifying every size and hash.

    Raises:
        InputError: a file is missing, truncated, changed or does not belong to a checkpoint; the message names it.
    """
    manifest = _read_json(folder / MANIFEST)
    files = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(files, dict) or STATE not in files:
        raise InputError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}; it is damaged, or of another lgkd")
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, expected in files.items():
        part = name.removesuffix(".safetensors")
        if name != STATE and not (_PART.fullmatch(part) and name.endswith(".safetensors")):
            raise InputError(
                f"{folder / MANIFEST} names {safe_text(name)!r}, which is not a part of a checkpoint; "
                "it is damaged, or of another lgkd"
            )
        data = _read(folder / name)
        if not isinstance(expected, dict) or len(data) != expected.get("bytes"):
            raise InputError(f"{folder / name} is cut or changed: it has {len(data)} bytes, not the manifest's")
        if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
            raise InputError(f"{folder / name} is damaged: its SHA-256 is not the manifest's")
        if name == STATE:
            state = _read_state(folder / name, data)
            continue
        try:
            # Their order is arbitrary; processes that reduce them must use the same order.
            tensors[part] = dict(sorted(load(data).items()))
        except UNREADABLE as error:
            raise_if_out_of_memory(error)
            raise InputError(f"{folder / name} holds no tensors ({safe_text(str(error), 200)})") from None
    return tensors, state


def _read_state(file: Path, data: bytes) -> dict[str, Any]:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise InputError(f"{file} holds no state of a training; it is damaged")
    return state


def _newest_first(root: Path) -> Iterable[Path]:
    if not root.is_dir():
        return []
    # A process that died between two renames of a step left it under its old name.
    steps = [
        (int(match[1]), not path.name.endswith(".old"), path)
        for path in root.iterdir()
        if path.is_dir() and (match := _NAME.fullmatch(path.name.removesuffix(".old")))
    ]
    return [path for _, _, path in sorted(steps, reverse=True)]


def _drop_old(root: Path) -> None:
    """Delete all but the last two; of partial ones only those with names of lgkd."""
    for path in list(_newest_first(root))[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
    for path in root.glob("*.tmp"):
        if path.is_dir() and not path.is_symlink() and (_NAME.fullmatch(path.stem) or path.stem == "best"):
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, data: bytes, manifest: dict[str, dict[str, Any]] | None) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        _fault(f"written-{path.name}")
        stream.flush()
        os.fsync(stream.fileno())
    _fault(f"synced-{path.name}")
    if manifest is not None:
        manifest[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _read_json(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        value = json.loads(data)
        # The manifest has no hash itself; serialising it again must give the same bytes.
        unchanged = isinstance(value, dict) and _json(value) == data
    except (ValueError, RecursionError):
        unchanged = False
    if not unchanged:
        raise InputError(f"{path} is damaged: it is not as it was written")
    return value  # type: ignore[no-any-return]


def _fault(point: str) -> None:
    """Kill the process here, as by a power failure, if a test requests it."""
    if os.environ.get(FAULT_VARIABLE) == point:
        os._exit(70)
