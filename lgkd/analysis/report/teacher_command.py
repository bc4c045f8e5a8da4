"""Compose the commands that train the teachers of a report's runs again, from their cards or their own runs."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lgkd._internal.paths import recipe_names
from lgkd.analysis.report.command import command, dataset_words
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.sentences import teachers_of
from lgkd.data.names import Subset
from lgkd.errors import LgkdError
from lgkd.models.teacher_card import TeacherCard
from lgkd.models.teacher_store import find_card
from lgkd.runs.compare.find import find_runs
from lgkd.runs.compare.groups import group_runs
from lgkd.runs.folder import RECIPE

_STORED = "Train the teacher, unless it is in the store (lgkd teachers)."
_IMPORTED = re.compile(r"imported from (.+), SHA-256 ([0-9a-f]{64})")


class TeacherCommand(NamedTuple):
    """Represent the command of one teacher.

    Attributes:
        line: for a shell.
        what: sentences on when it is needed, and what it does not repeat.
        recipe: name and content of a recipe file that it reads; None where the recipe comes with lgkd.
    """

    line: str
    what: str
    recipe: tuple[str, str] | None = None


def teacher_commands(chosen: Chosen) -> list[TeacherCommand]:
    """Compose the command of every teacher of the main run, but of those with published weights, which need none."""
    info = chosen.main.info
    found: list[TeacherCommand] = []
    for number, teacher in enumerate(teachers_of(info), 1):
        if teacher.get("weights") or not teacher.get("name"):
            continue
        if teacher.get("run"):
            one = _of_run(Path(str(teacher["run"])), "" if number == 1 else f"-{number}")
        else:
            one = _of_store(teacher, info["dataset"])
        found += [] if one is None else [one]
    return found


def _of_run(folder: Path, number: str) -> TeacherCommand | None:
    """Compose the command of a teacher that is the student of a run; None where that run is not there any more."""
    try:
        chosen = Chosen(group_runs(find_runs([folder]))[0], None)
        content = (folder / RECIPE).read_text(encoding="utf-8")
        line = command(chosen, out=folder.name, recipe=f"teacher{number}-{RECIPE}")
    except (LgkdError, OSError, ValueError, KeyError):
        return None
    if line is None:
        return None
    what = f"Train the teacher, unless the working folder holds its run, {folder.name}."
    return TeacherCommand(line, what, (f"teacher{number}-{RECIPE}", content))


def _of_store(teacher: Mapping[str, Any], about: Mapping[str, Any]) -> TeacherCommand:
    """Compose the command of a teacher of the store, from its card where that is still there."""
    try:
        card = find_card(str(teacher["kept_as"]), str(about["name"]))[0]
    except (LgkdError, KeyError):
        card = None
    if card is None or card.weights_sha256 != teacher.get("sha256"):
        words = [*_start(str(teacher["name"]), about), *_subset(teacher.get("subset"))]
        return TeacherCommand(
            shlex.join(words), f"{_STORED} Its card is not on this machine: recipe and length are not known."
        )
    if (origin := _IMPORTED.fullmatch(card.recipe)) is not None:
        line = shlex.join(_imported(card, about, *origin.groups()))
        return TeacherCommand(line, f"{_STORED} Its weights were imported.")
    size, recipe = card.image_size, card.recipe
    words = [*_start(card.architecture, about), *_options(card.options), *_subset(card.subset)]
    words += ["--recipe", recipe if recipe in recipe_names() else f"{Path(recipe).stem}.yaml"]
    words += ["--epochs", str(card.accuracy.epochs), "--image-size", str(size), "--seed", str(card.seed)]
    what = f"{_STORED} Its card does not hold other changes of the recipe, such as --set or --batch-size."
    return TeacherCommand(shlex.join(words), what)


def _start(architecture: str, about: Mapping[str, Any]) -> list[str]:
    return ["lgkd", "train-teacher", architecture, *dataset_words(about)]


def _options(options: Mapping[str, Any]) -> list[str]:
    pairs = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]
    return [word for pair in pairs for word in ("--teacher-option", pair)]


def _subset(text: str | None) -> list[str]:
    part = Subset.parse(text) if text else None
    return [] if part is None else shlex.split(part.command_options)


def _imported(card: TeacherCard, about: Mapping[str, Any], file: str, sha256: str) -> list[str]:
    dataset, *data_dir = dataset_words(about)
    words = ["lgkd", "import-teacher", card.architecture, file, dataset, *data_dir, "--sha256", sha256]
    words += ["--mean", _listed(card.mean), "--std", _listed(card.std), "--image-size", str(card.image_size)]
    return [*words, *_options(card.options)]


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
