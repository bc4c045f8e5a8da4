"""Keep the state of a fit in its folder, so that a repeated command resumes it. No torch.

fit.json                    the request, the facts and the plan, the seconds used, the results
teacher/                    the teacher's run; with several folds teacher/fold1/ ...
teachers/DATASET/NAME/      the teacher with its card; the user's store is not changed
students/seed0-guided/ ...  the students' runs, and their comparison; with folds seed0-fold1-guided/ ...
report.html, report/        the report
export/                     the guided student without lgkd, and its model card
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lgkd import __version__
from lgkd._internal.atomic_io import write_json
from lgkd._internal.text import safe_text
from lgkd.autofit.inputs import Facts
from lgkd.autofit.plan import Plan
from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import is_untouched
from lgkd.runs.identity import differences, lines_of

FIT, TEACHER, TEACHERS, STUDENTS = "fit.json", "teacher", "teachers", "students"
REPORT, EXPORT = "report.html", "export"
_FORMAT = 1


def part_of(folder: Path, fold: int | None) -> Path:
    """Return the folder of one fold below `teacher`; the folder itself without several folds."""
    return folder if fold is None else folder / f"fold{fold}"


@dataclass
class State:
    """Hold the content of fit.json.

    Attributes:
        folder: of the fit.
        request: the arguments that determine what is trained.
        facts: about images and machine, at the start.
        plan: as JSON; it is made again from the facts when a fit is resumed.
        seconds: used so far.
        length: of a student's training: "steps" and "warmup_epochs", and "seconds" to which they were fitted; None
            before it is known.
        results: None before the end.
        left_out: parts that could not be written, with the reason.
    """

    folder: Path
    request: Mapping[str, Any]
    facts: Facts
    plan: Mapping[str, Any]
    seconds: float = 0.0
    length: Mapping[str, float] | None = None
    results: Mapping[str, Any] | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write fit.json."""
        values = {
            "format": _FORMAT,
            "lgkd": __version__,
            "request": dict(self.request),
            "facts": asdict(self.facts),
            "plan": dict(self.plan),
            "seconds": round(self.seconds, 1),
            "length": None if self.length is None else dict(self.length),
            "results": None if self.results is None else dict(self.results),
            "left_out": self.left_out,
        }
        write_json(self.folder / FIT, values)

    @classmethod
    def begin(cls, folder: Path, request: Mapping[str, Any], facts: Facts, plan: Plan, seconds: float = 0.0) -> "State":
        """Make the state of a fit that has not trained anything yet, and write it."""
        state = cls(folder, request, facts, plan.as_dict(), seconds)
        state.write()
        return state


def find_state(folder: Path, request: Mapping[str, Any]) -> State | None:
    """Return the state of a fit that was begun in a folder; None where the folder is free.

    Raises:
        TakenError: the folder holds something else, or a fit of other arguments.
        InputError: its fit.json is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder for a fit; choose another --out")
    if not (folder / FIT).is_file():
        if folder.is_dir() and not is_untouched(folder, FIT):
            name = safe_text(min(path.name for path in folder.iterdir()))
            raise TakenError(f"{folder} already holds {name} and no {FIT}; nothing was touched. Choose another --out")
        return None
    state = _read(folder)
    changes = differences(state.request, request)
    if changes:
        raise TakenError(
            f"{folder} holds a fit of other arguments; nothing was touched. Repeat it with these, or choose another "
            f"--out:\n  {lines_of(changes)}"
        )
    return state


def _read(folder: Path) -> State:
    file = folder / FIT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); it is damaged, choose another --out") from None
    try:
        facts = _facts(found["facts"])
        length, results = found["length"], found["results"]
        proper = (
            found["format"] == _FORMAT
            and isinstance(found["request"], dict)
            and isinstance(found["plan"], dict)
            and _is_number(found["seconds"])
            and (length is None or all(_is_number(length[key]) for key in ("steps", "warmup_epochs", "seconds")))
            and (results is None or isinstance(results, dict))
            and all(isinstance(reason, str) for reason in found["left_out"].values())
        )
    except (KeyError, TypeError, AttributeError):
        proper = False
    if not proper:
        raise InputError(f"{file} is not as lgkd wrote it; it is damaged or of another version, choose another --out")
    return State(
        folder, found["request"], facts, found["plan"], found["seconds"], length, results, dict(found["left_out"])
    )


def _facts(found: Mapping[str, Any]) -> Facts:
    """Check facts from a file: the plan is made of them again, so that no file names a model."""
    kinds: dict[str, Any] = {"str": str, "int": int, "float": int | float, "bool": bool, "str | None": str | None}
    later = {one.name: one.default for one in fields(Facts) if one.default is not MISSING and one.name not in found}
    found = {**later, **found}  # of an earlier version
    for one in fields(Facts):
        kind = kinds[one.type if isinstance(one.type, str) else getattr(one.type, "__name__", "str | None")]
        value = found[one.name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(one.name)
        if isinstance(value, int | float) and not 0 <= value < 1e12:
            raise TypeError(one.name)
    return Facts(**{one.name: found[one.name] for one in fields(Facts)})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
