"""Save and restore a training."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lgkd._internal.distributed import all_reduce_sum, wait
from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd.errors import InputError, NonFiniteError
from lgkd.training.callbacks import EpochRow
from lgkd.training.checkpoint import STATE, Checkpoint, load_newest, read_checkpoint, save_best, save_checkpoint
from lgkd.training.metrics import RunningMean
from lgkd.training.state import Progress, all_finite, read_progress

if TYPE_CHECKING:
    from lgkd.training.train_step import Engine

SECONDS_VARIABLE = "LGKD_SAVE_SECONDS"
"""Name of an environment variable that overrides the seconds between saves; for tests."""


_UNFIT = (RuntimeError, KeyError, TypeError, ValueError, OverflowError)


def _load(engine: "Engine", found: Checkpoint) -> None:
    """Load the tensors and states of a checkpoint, except the progress."""
    engine.load_state_dict(found.tensors)
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(found.state["scaler"])
    engine.task.load_extra_state(found.state["progress"]["courses"])


class Checkpointer:
    """Save a training in a folder, so that it can be resumed from where it stopped.

    Args:
        root: the folder of the checkpoints.
        every_seconds: interval between saves; 0: after every step.
        identity: identity of the training (settings and their digest, data fingerprint, ...); stored in checkpoints.
        check: called with a checkpoint's folder, the identity in it (None in those of earlier versions) and this
            training's; raises if the training must not be resumed from the checkpoint.
        select_on: the score that selects the best epoch, such as "val_top1"; None: no selection.
        start_from: the folder of another training's checkpoints, whose last one this training continues where it has no
            checkpoint of its own; None: it starts anew.
        on_restored: called when a checkpoint has been restored, or none was found, before the training writes anything.
        say: called with messages for the user.
    """

    def __init__(
        self,
        root: Path,
        *,
        every_seconds: float = 60.0,
        identity: dict[str, Any] | None = None,
        check: Callable[[Path, Any, dict[str, Any]], None] | None = None,
        select_on: str | None = None,
        start_from: Path | None = None,
        on_restored: Callable[[], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.root = root
        self._every = float(os.environ.get(SECONDS_VARIABLE, every_seconds))
        self._identity = identity or {}
        self._check = check or (lambda _place, _theirs, _ours: None)
        self._select_on = select_on
        self._start_from = start_from
        self._on_restored = on_restored or (lambda: None)
        self._say = say or (lambda _: None)
        self._saved = time.monotonic()

    def seconds_left(self) -> float:
        """Return the seconds until the next save; 0 or less: save now."""
        return self._every - (time.monotonic() - self._saved)

    def save(self, engine: "Engine", progress: Progress, meters: RunningMean) -> None:
        """Write everything that the next step depends on.

        Raises:
            NonFiniteError: a weight is not finite; nothing is written, the previous checkpoint stays the newest.
        """
        if not all(all_finite(part) for part in engine.task.checkpoint_tensors().values()):
            raise NonFiniteError(
                f"a weight is not finite after epoch {progress.epoch + 1}, step {progress.step}; it was not saved, the "
                "last checkpoint is good. Try a lower optimizer.lr or --precision fp32"
            )
        sums = meters.state_dict(all_reduce_sum)
        images = int(all_reduce_sum(torch.tensor(meters.images)))
        if engine.rank == 0:
            scaler = engine.accelerator.scaler
            state = {
                "progress": progress.state_dict() | {"images": images, "courses": engine.task.extra_state()},
                "scaler": scaler.state_dict() if scaler is not None else None,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "processes": engine.processes,
                "identity": self._identity,
            }
            done = progress.epoch * engine.plan.steps_per_epoch + progress.step
            save_checkpoint(self.root, done, engine.state_dict() | {"meters": sums}, state)
        # No process exits, which would make the launcher end the others, before everything is on the disk.
        wait()
        self._saved = time.monotonic()

    def restore(self, engine: "Engine", meters: RunningMean) -> Progress | None:
        """Restore the newest valid checkpoint; return None if there is none.

        Raises:
            InputError: all checkpoints are corrupt, or it belongs to another training.
            TakenError: raised by `check`.
        """
        found = load_newest(self.root)
        if found is None:
            if self._start_from is not None:
                self._continue(engine, self._start_from)
            self._on_restored()
            return None
        for problem in found.damaged:
            self._say(f"skipped a corrupt checkpoint: {problem}; resuming from {found.folder.name}")
        parts, state = found.tensors, found.state
        self._check(found.folder, state.get("identity"), self._identity)
        progress = read_progress(state, found.folder / STATE)
        if state["threads"] != torch.get_num_threads():
            self._say(
                f"the checkpoint was made with {state['threads']} threads, now there are {torch.get_num_threads()}: "
                "the training is resumed, but is not bitwise identical"
            )
        if state["processes"] != engine.processes:
            self._say(
                f"the checkpoint was made by {state['processes']} processes, now there are {engine.processes}: the "
                "training is resumed, but with different dropout and stochastic depth, if it has any"
            )
        try:
            _load(engine, found)
        except _UNFIT as error:
            raise_if_out_of_memory(error)
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{found.folder} belongs to another training ({reason}); move the run's folder away to start again"
            ) from error
        # The sums are over all processes; one of them resumes with them.
        mine = int(engine.rank == 0)
        sums = {name: value * mine for name, value in parts["meters"].items()}
        meters.load_state_dict(sums, progress.images * mine, engine.device)
        self._on_restored()
        self._say(f"resuming from epoch {progress.epoch + 1}, step {progress.step}")
        return progress

    def _continue(self, engine: "Engine", root: Path) -> None:
        """Load weights, optimiser, average and scaler of another training's last checkpoint; its progress is left.

        Raises:
            InputError: there is no checkpoint, it is corrupt, or of another kind of training.
        """
        found = load_newest(root)
        if found is None:
            raise InputError(f"{root} holds no checkpoint; start from the weights alone, without --with-optimizer")
        read_progress(found.state, found.folder / STATE)
        try:
            _load(engine, found)
        except (*_UNFIT, InputError) as error:
            raise_if_out_of_memory(error)
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{found.folder} is of another kind of training ({reason}); start from its weights alone, without "
                "--with-optimizer"
            ) from error
        self._say(f"continues from {found.folder}, with its optimiser state")

    def is_best(self, row: EpochRow, progress: Progress) -> bool:
        """Return True if this epoch is the best so far on the held-out images, and record it in the progress."""
        if self._select_on is None or self._select_on not in row.scores:
            return False
        score = row.scores[self._select_on]
        if progress.best is not None and score <= progress.best["score"]:
            return False
        progress.best = {"epoch": row.epoch, "score": score}
        return True

    def save_best(self, engine: "Engine", progress: Progress) -> None:
        """Save the student of the best epoch (its average where there is one)."""
        if engine.rank == 0:
            state = {"best": progress.best, "identity": self._identity}
            save_best(self.root, {"student": engine.eval_model.state_dict()}, state)
        wait()

    def load_best(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Load the student of the best epoch, and the epoch's record."""
        folder = self.root / "best"
        # A process that died between two renames left it under its old name.
        place = folder if folder.exists() else self.root / "best.old"
        tensors, state = read_checkpoint(place)
        self._check(place, state.get("identity"), self._identity)
        return tensors["student"], state["best"]
