"""Describe the supported experiment trackers without importing them. Imports no torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lgkd._internal.text import did_you_mean
from lgkd.errors import InputError, MissingError

TRACKED = "tracked.json"
"""File in a run's folder with the progress logged to each tracker, so that nothing is logged twice."""


@dataclass(frozen=True)
class Known:
    """Describe a tracker of Accelerate.

    Attributes:
        begin: from the run's folder and a fresh identity to the arguments of Accelerate's class; "project" is the
            first one, where it is not lgkd.
        again: arguments that replace them when a run is resumed, from the identity stored before.
        identity: attribute path of the identity on the created tracker; "" keeps the fresh one.
        inside: True if it writes into the run's folder only, so that resuming may enable it without being asked.
        advice: the most common remedy when it fails.
        install: name of the package, if it differs from the tracker's; the module always has the tracker's name.
    """

    begin: Callable[[Path, str], dict[str, Any]]
    again: Callable[[str], dict[str, Any]]
    identity: str = ""
    inside: bool = False
    advice: str = "docs/trackers.md says what it needs"
    install: str = ""


# The keywords are those of each tracker's own `init`, `start` or `Run`; docs/trackers.md lists the tested ones.
KNOWN: dict[str, Known] = {
    "tensorboard": Known(
        lambda folder, _: {"project": "tensorboard", "logging_dir": str(folder)},
        lambda _: {},
        inside=True,
        advice="see whether its folder in the run's can be written to",
        install="lgkd[tensorboard]",
    ),
    "wandb": Known(
        lambda folder, _: {"name": folder.name, "dir": str(folder)},
        lambda identity: {"id": identity, "resume": "allow"},
        "id",
        advice="log in by `wandb login`, or set WANDB_MODE=offline",
    ),
    "trackio": Known(
        lambda folder, _: {"name": folder.name}, lambda identity: {"name": identity, "resume": "allow"}, "name"
    ),
    "mlflow": Known(
        lambda folder, _: {"run_name": folder.name},
        lambda identity: {"run_id": identity},
        "info.run_id",
        advice="see whether MLFLOW_TRACKING_URI is the address of a server or a store that answers",
    ),
    "comet_ml": Known(
        lambda *_: {}, lambda identity: {"experiment_key": identity}, "id", advice="set COMET_API_KEY"
    ),
    "aim": Known(
        lambda folder, _: {"project": folder.name, "logging_dir": str(folder)},
        lambda identity: {"run_hash": identity},
        "hash",
        inside=True,
    ),
    "clearml": Known(
        # Otherwise it would patch torch, and read the command line.
        lambda folder, _: {
            "task_name": folder.name, "auto_connect_frameworks": False, "auto_connect_arg_parser": False
        },
        lambda identity: {"continue_last_task": identity},
        "id",
        advice="run `clearml-init` once",
    ),
    "dvclive": Known(
        # Its commits and its dvc.yaml would be written into the user's repository.
        lambda folder, _: {"dir": str(folder / "dvclive"), "save_dvc_exp": False, "dvcyaml": None},
        lambda _: {"resume": True},
        inside=True,
    ),
    "swanlab": Known(
        lambda folder, identity: {
            "experiment_name": folder.name, "logdir": str(folder / "swanlab"), "id": identity, "resume": "allow"
        },
        lambda identity: {"id": identity},
        advice="log in by `swanlab login`",
    ),
}  # fmt: skip

INSIDE = frozenset(name for name, known in KNOWN.items() if known.inside)
"""Trackers that write into the run's folder only."""


def name_of(tracker: Any) -> str:
    """Return the name of a tracker; a custom one has an attribute `name`."""
    return tracker if isinstance(tracker, str) else str(tracker.name)


def is_here(name: str) -> bool:
    """Return True if a tracker's package can be imported."""
    return find_spec(name) is not None


def check_trackers(trackers: Iterable[Any]) -> None:
    """Check trackers: names must be known and their packages installed; objects must be trackers.

    Raises:
        InputError: an unknown name, a duplicate, or an object that is not a tracker.
        MissingError: its package is not installed; the message contains the command that installs it.
    """
    if isinstance(trackers, str):
        raise InputError(f"track is {trackers!r}, expected a list of trackers, such as [{trackers!r}]")
    seen: set[str] = set()
    for tracker in trackers:
        if not isinstance(tracker, str):
            if not isinstance(getattr(tracker, "name", None), str) or not callable(getattr(tracker, "log", None)):
                raise InputError(
                    f"a tracker is a {type(tracker).__name__}, expected a name, or an object with a `name` and a "
                    "method log(values, step=...); see docs/trackers.md"
                )
        elif tracker not in KNOWN:
            raise InputError(f"there is no tracker {tracker!r}; {did_you_mean(tracker, KNOWN)}")
        elif not is_here(tracker):
            package = KNOWN[tracker].install or tracker
            raise MissingError(
                f"the tracker {tracker} is not installed; get it by: pip install '{package}', or leave out --track "
                f"{tracker}"
            )
        if name_of(tracker) in seen:
            raise InputError(f"the tracker {name_of(tracker)} is named twice; name it once")
        seen.add(name_of(tracker))
