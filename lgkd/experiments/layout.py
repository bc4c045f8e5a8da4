"""Lay out an experiment's folder: a folder for each arm with one for each seed, the teachers, and its metadata.

experiment.json                   its name, and the commits that each run was made with
ARM/seed0/                        a run
teachers/ARM/seed0/DATASET/NAME/  a teacher with its card; the user's store is not changed
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lgkd
from lgkd._internal.atomic_io import write_json
from lgkd._internal.git import git_state
from lgkd.config import load_recipe
from lgkd.errors import InputError, TakenError
from lgkd.experiments.select import Turn, dataset_of, kept_as, subset_of
from lgkd.experiments.spec import Experiment
from lgkd.models.registry import canonical
from lgkd.runner.length_settings import settled
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve_recipe
from lgkd.runs.folder import RECIPE, describe, is_finished, is_untouched, read_metrics, read_run
from lgkd.runs.identity import differences, identity, lines_of

ABOUT = "experiment.json"
_FORMAT = 1
# The parts of a run's identity that an experiment sets; the rest follows from them or from the machine.
_DECIDED = ("kind", "student.name", "student.options", "dataset.name", "dataset.subset", "seed", "recipe")


def default_folder(experiment: Experiment) -> Path:
    """Return the folder of an experiment without --out."""
    return Path("runs") / "reproduce" / experiment.name


def run_of(out: Path, turn: Turn) -> Path:
    """Return the folder of one run."""
    return out / turn.arm.key / f"seed{turn.seed}"


def kept_in(out: Path, experiment: Experiment, turn: Turn) -> Path:
    """Return the folder of the teacher that a run trains."""
    return out / "teachers" / turn.arm.key / f"seed{turn.seed}" / dataset_of(experiment, turn.arm) / kept_as(turn.arm)


def check_out(out: Path, experiment: Experiment) -> None:
    """Validate that an experiment can be written into a folder, or resumed there; nothing is created.

    Raises:
        TakenError: a file has that name, or the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise TakenError(f"{out} is a file, expected a folder for an experiment; choose another --out")
    if not (out / ABOUT).is_file():
        if out.is_dir() and not is_untouched(out, ABOUT):
            names = sorted(path.name for path in out.iterdir())
            raise TakenError(
                f"{out} already holds {names[0]} and no {ABOUT}; nothing was touched. Choose another --out"
            )
        return
    if (other := read_about(out)["experiment"]) != experiment.name:
        raise TakenError(f"{out} holds the experiment {other}, not {experiment.name}; choose another --out")


def read_about(out: Path) -> dict[str, Any]:
    """Read experiment.json.

    Raises:
        InputError: it is damaged or a different file.
    """
    file = out / ABOUT
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); it is damaged or a different file") from None
    commits = about.get("commits") if isinstance(about, dict) else None
    proper = isinstance(commits, dict) and all(
        isinstance(of_run, list) and all(isinstance(commit, str) for commit in of_run) for of_run in commits.values()
    )
    if not proper or about.get("format") != _FORMAT or not isinstance(about.get("experiment"), str):
        raise InputError(f"{file} does not name an experiment and commits; it is damaged or a different file")
    return dict(about)


def note_commit(out: Path, experiment: Experiment, turn: Turn) -> None:
    """Record this code's commit for a run: a stopped run may be resumed by another."""
    out.mkdir(parents=True, exist_ok=True)
    commits = read_about(out)["commits"] if (out / ABOUT).is_file() else {}
    of_run = commits.setdefault(turn.name, [])
    if (commit := this_commit()) not in of_run:
        of_run.append(commit)
    write_json(out / ABOUT, {"format": _FORMAT, "experiment": experiment.name, "commits": commits})


def this_commit() -> str:
    """Return the running code's short commit, with a + where files differ from it; outside a checkout the version."""
    checkout = Path(lgkd.__file__).resolve().parent.parent
    # An installed package may be inside another repository, whose commit is not that of this code.
    state = git_state(checkout, only=("lgkd", "recipes")) if (checkout / ".git").exists() else None
    if state is None:
        return f"lgkd {lgkd.__version__}"
    return f"{state['commit'][:7]}{'' if state['changed'] is False else '+'}"


def check_finished(out: Path, experiment: Experiment, turn: Turn) -> None:
    """Validate that a finished run has the experiment's present settings.

    Raises:
        TakenError: it was made with other settings; each is named with both values.
    """
    folder = run_of(out, turn)
    info = read_run(folder)
    found = dict(_decided(identity(info, load_recipe(folder / RECIPE))))
    changes = differences(found, dict(_decided(_asked_for(experiment, turn, info.get("steps_per_epoch") or 1))))
    if changes:
        raise TakenError(
            f"{folder} holds a finished run ({describe(info)}) of other settings than {experiment.name} has here. "
            f"Choose another --out to start again:\n  {lines_of(changes)}"
        )


def finished(out: Path, turn: Turn) -> bool:
    """Return true if a run is finished."""
    return is_finished(run_of(out, turn))


def progress_of(out: Path, turns: Sequence[Turn]) -> dict[str, str]:
    """Return the progress of each run, before running: "done", "epoch 7", "begun" or ""."""
    states = {}
    for turn in turns:
        folder = run_of(out, turn)
        if finished(out, turn):
            states[turn.name] = "done"
        else:
            rows = read_metrics(folder)
            begun = "begun" if folder.is_dir() else ""
            states[turn.name] = f"epoch {int(rows[-1]['epoch'])}" if rows else begun
    return states


def _asked_for(experiment: Experiment, turn: Turn, steps_per_epoch: int) -> dict[str, Any]:
    arm = turn.arm
    chosen = arm.chosen()
    named = ("epochs", "batch_size", "image_size", "precision", "overrides")
    recipe = resolve_recipe(
        arm.recipe,
        trains=arm.role,
        guided=arm.teacher is not None,
        **{name: chosen[name] for name in named if name in chosen},
    )
    kind = "teacher" if arm.role == "teacher" else "distill" if arm.teacher is not None else "train"
    return identity(
        {
            "kind": kind,
            "student": {"name": canonical(arm.model), "options": dict(arm.options)},
            "dataset": {"name": dataset_of(experiment, arm), "subset": subset_of(arm)},
            "seed": turn.seed,
        },
        settled(recipe, cast(Options, chosen), steps_per_epoch),
    )


def _decided(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if any(key == name or key.startswith(f"{name}.") for name in _DECIDED):
            yield key, value
