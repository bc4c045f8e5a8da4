"""Compose the command that repeats the runs of a report. Those of its teachers: `teacher_command`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd.analysis.report.selection import Chosen
from lgkd.data.names import Subset
from lgkd.runner.options import OPTIONS
from lgkd.runner.timm_teacher import PRETRAINED
from lgkd.runs.folder import RECIPE

_PARTS = ("fraction", "images_per_class", "val_fraction")
"""Options that use only some of the images, for which the subset's seed counts."""


def command(chosen: Chosen, *, out: str, recipe: str = RECIPE) -> str | None:
    """Compose one line for a shell: the same choices for all seeds, and the baseline where the same command trains it.

    Folders are given by their last names, since the folders above do not
    exist elsewhere.

    Args:
        chosen: the runs.
        out: the new folder.
        recipe: the file of the recipe.

    Returns:
        The line; None where objects have no name.
    """
    info = chosen.main.info
    call = info.get("call")
    if not isinstance(call, dict):
        return None
    options = call.get("options") or {}
    if _is_series(chosen) and chosen.ours.units == "folds":
        options = {name: value for name, value in options.items() if name != "fold"}
    words = [*_who(info, call), "--recipe", recipe, *_seeds(chosen), *_options(options)]
    if info.get("processes", 1) > 1:
        words += ["--nproc", str(info["processes"])]
    return shlex.join([*words, "--out", out])


def preconditions(chosen: Chosen) -> str | None:
    """Return a sentence on the folders that the command names; None where it names none."""
    folders = [Path(place).name for place in _folders(chosen.main.info)]
    return f"The working folder has to hold {' and '.join(folders)}, or links of that name." if folders else None


def consequences(chosen: Chosen) -> str:
    """Describe the result of the command."""
    single = len(chosen.ours.runs) == 1 and not _makes_baseline(chosen)
    after = [f"On the same machine and versions it gives the same student{'' if single else 's'}."]
    if chosen.baseline is not None and not _makes_baseline(chosen):
        after.append("The baseline was trained by another command; a report of it alone shows that.")
    return " ".join(after)


def dataset_words(about: Mapping[str, Any]) -> list[str]:
    """Return the data set as an argument, and the folder of named data sets.

    Args:
        about: `dataset` of run.json.
    """
    named = f"{Path(about['path']).name}/" if about["path"] else str(about["name"])
    return [named] if about["data_dir"] is None else [named, "--data-dir", Path(about["data_dir"]).name]


def _who(info: Mapping[str, Any], call: Mapping[str, Any]) -> list[str]:
    """Return the arguments for student, teachers and data set."""
    dataset, *data_dir = dataset_words(info["dataset"])
    role = "teacher" if info["kind"] == "teacher" else "student"
    if role == "teacher":
        words = ["lgkd", "train-teacher", info["student"]["name"], dataset]
    else:
        words = ["lgkd", info["kind"], "--student", info["student"]["name"]]
        words += [word for name in call.get("teachers") or () for word in ("--teacher", Path(name).name)]
        words += ["--dataset", dataset]
    words += data_dir
    for key, value in (call.get("model_options") or {}).items():
        words += [f"--{role}-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    if call.get("taps"):
        words += ["--taps", ",".join(call["taps"])]
    return words


def _seeds(chosen: Chosen) -> list[str]:
    baseline = ["--with-baseline"] if _makes_baseline(chosen) else []
    if not _is_series(chosen):
        return ["--seed", str(chosen.main.info["seed"]), *baseline]
    return ["--seeds", ",".join(map(str, dict.fromkeys(chosen.ours.seeds))), *baseline]


def _is_series(chosen: Chosen) -> bool:
    """Return true if one command trains all runs: their seeds are the only difference, or all folds of each are there.

    One command takes one subset of the images.
    """
    runs = chosen.ours.runs
    if len(runs) == 1 or chosen.main.info["kind"] == "teacher":
        return False
    parts = [Subset.parse(run.info["dataset"].get("subset") or "") for run in runs]
    whole = [part for first in parts[:1] if first is not None for part in first.each_fold]
    if not whole:
        return len({run.info["dataset"].get("subset") for run in runs}) == 1
    seeds = {run.seed for run in runs}
    return len(runs) == len(seeds) * len(whole) and {part and part.text for part in parts} == {p.text for p in whole}


def _makes_baseline(chosen: Chosen) -> bool:
    """Return true if `--with-baseline` trains exactly the runs of the baseline."""
    ours, baseline = chosen.ours, chosen.baseline
    if baseline is None or not baseline.is_baseline_of(ours) or not (_is_series(chosen) or len(ours.runs) == 1):
        return False
    if chosen.difference is not None and chosen.difference.equal == "minutes":
        return False  # the stored recipe has the steps of one arm
    return [run.pair for run in baseline.runs] == [run.pair for run in ours.runs]


def _options(options: Mapping[str, Any]) -> list[str]:
    whole = all(options.get(name) is None for name in _PARTS)
    kept = {name: options.get(name) for name, option in OPTIONS.items() if option.kept == "command"}
    return option_words({name: value for name, value in kept.items() if not (name == "subset_seed" and whole)})


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return options of a training as words of a command, with files and folders by their last names.

    Args:
        options: values by the names of `lgkd.runner.options.OPTIONS`; None: not given.
    """
    words: list[str] = []
    for name, value in options.items():
        option = OPTIONS[name]
        if value is None:
            continue
        flag, _, negative = (option.flag or "--" + name.replace("_", "-")).partition("/")
        if option.kind is bool:
            words += [flag] if value else [negative] if negative else []
            continue
        if option.words is not None:
            value = option.word_of(value)
        for one in value if option.repeated else [value]:
            words += [flag, Path(one).name if option.is_place else _without_folders(str(one))]
    return words


def _without_folders(text: str) -> str:
    """Return an option's text with the last name of a table's path alone."""
    return f"csv:{Path(text).name}" if text.startswith("csv:") else text


def _folders(info: Mapping[str, Any]) -> Sequence[str]:
    """Return the folders that the command names."""
    about, options = info["dataset"], (info.get("call") or {}).get("options") or {}
    teachers = (info.get("teacher"), *(info.get("more_teachers") or ()))
    runs = [teacher.get("run") for teacher in teachers if teacher]
    places = (
        about["path"],
        about["data_dir"],
        options.get("extra"),
        options.get("init"),
        *(options.get("cached") or ()),
        *(one for one in options.get("teacher_weights") or () if one != PRETRAINED),
        *runs,
    )
    return [str(place) for place in places if place]
