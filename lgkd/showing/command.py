"""The command that makes a run again."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgkd.runs import RECIPE

_VALUES = ("fraction", "images_per_class", "subset_seed", "val_fraction", "extra", "extra_share", "device")
_SWITCHES = ("deterministic", "cuda_graphs", "approximate")


def command(folder: Path, info: Mapping[str, Any], *, out: str) -> str | None:
    """One line for a shell: the same choices, with the resolved recipe of the folder; None where objects have no name.

    Args:
        folder: of the run.
        info: the content of its run.json.
        out: the new run's folder.
    """
    call = info.get("call")
    if not isinstance(call, dict):
        return None
    about, options = info["dataset"], call.get("options") or {}
    dataset = str(about["path"] or about["name"])
    role = "teacher" if info["kind"] == "teacher" else "student"
    if role == "teacher":
        words = ["lgkd", "train-teacher", info["student"]["name"], dataset]
    else:
        words = ["lgkd", info["kind"], "--student", info["student"]["name"]]
        words += [word for teacher in call.get("teachers") or () for word in ("--teacher", teacher)]
        words += ["--dataset", dataset]
    if about["data_dir"] is not None:
        words += ["--data-dir", about["data_dir"]]
    for key, value in (call.get("model_options") or {}).items():
        words += [f"--{role}-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if call.get("taps"):
        words += ["--taps", ",".join(call["taps"])]
    words += ["--recipe", str(folder / RECIPE), "--seed", str(info["seed"])]
    for name in _VALUES:
        if options.get(name) is not None:
            words += [_option(name), str(options[name])]
    words += [_option(name) for name in _SWITCHES if options.get(name)]
    if options.get("compile") is not None:
        words.append("--compile" if options["compile"] else "--no-compile")
    words += [word for place in options.get("cached") or () for word in ("--cached", place)]
    if info.get("processes", 1) > 1:
        words += ["--nproc", str(info["processes"])]
    return shlex.join([*words, "--out", out])


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
