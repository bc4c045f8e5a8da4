"""Choose the settings of trials by Optuna, from a journal file that several processes share.

A trial is claimed by a lock file of its own, which the system releases when its process ends, so that the trial of a
stopped process is found unlocked and resumed. The sampler of a trial is seeded by the sweep's seed and the trial's
number: an interrupted sweep draws what an undisturbed one does.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import json_sha256
from lgkd._internal.locks import LockedError, locked
from lgkd._internal.text import safe_text
from lgkd.errors import InputError
from lgkd.tuning.space import Range, Space

JOURNAL, LOCK = "journal.log", "sweep.lock"
_NAME = "lgkd"
_STARTUP = 10
"""Trials that are drawn at random before TPE chooses."""


@dataclass(frozen=True)
class Trial:
    """Hold one trial of the journal.

    Attributes:
        number: counted from 0.
        state: "finished", "pruned", "failed" or "running".
        values: of the searched keys, as they were trained with.
        score: on held-out images, 0 to 1; None where it is not finished.
        about: what was noted of it, such as seconds and the reason of a failure.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    score: float | None
    about: Mapping[str, Any]


class Study:
    """Ask for trials, and record their scores.

    Args:
        folder: of the sweep; it exists.
        space: the searched keys.
        seed: of the search.
        prune: whether `should_prune` compares trials.
        warmup: epochs before which it does not.

    Raises:
        InputError: the journal is damaged, or of another search space.
    """

    def __init__(self, folder: Path, space: Space, *, seed: int, prune: bool = False, warmup: int = 0) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.space, self._seed, self._optuna = folder, space, seed, optuna
        file = folder / JOURNAL
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of features that Optuna calls experimental
                storage = JournalStorage(JournalFileBackend(str(file)))
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=_NAME,
                    direction="maximize",
                    load_if_exists=True,
                    sampler=self._sampler(0),
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
                    if prune
                    else optuna.pruners.NopPruner(),
                )
                self.trials()
        except InputError:
            raise
        except Exception as error:  # Optuna raises anything on a damaged journal
            why = safe_text(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
            raise InputError(
                f"{file} cannot be read by Optuna ({why}); it is damaged or of another version, take it from a copy or "
                "choose another --out"
            ) from None

    def trials(self) -> list[Trial]:
        """Return all trials, in their order."""
        words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        return [
            Trial(
                one.number,
                words.get(one.state.name, "running"),
                self._values(one),
                one.value if one.state.name == "COMPLETE" else None,
                dict(one.user_attrs),
            )
            for one in self._study.get_trials(deepcopy=False)
        ]

    @contextmanager
    def claimed(self, most: int, *, may_start: bool) -> Iterator[Trial | None]:
        """Claim a trial that no living process has: a stopped one, or a new one; None where there is none.

        Args:
            most: trials in all.
            may_start: whether a new one may be started.
        """
        with ExitStack() as held:
            with locked(self.folder / LOCK, wait=True):
                found = self._stopped(held)
                if found is None and may_start and len(self._study.get_trials(deepcopy=False)) < most:
                    found = self._new(held)
            yield found

    def finish(self, trial: Trial, score: float, about: Mapping[str, Any]) -> None:
        """Record the score of a trial on held-out images."""
        self._tell(trial, about, value=score)

    def give_up(self, trial: Trial, about: Mapping[str, Any], *, pruned: bool) -> None:
        """Record a trial without a score: pruned, which the sampler avoids, or failed, which it ignores."""
        states = self._optuna.trial.TrialState
        self._tell(trial, about, state=states.PRUNED if pruned else states.FAIL)

    def should_prune(self, trial: Trial, epoch: int, score: float) -> bool:
        """Record the score of an epoch, once; return true if it is below the median of earlier trials there."""
        live = self._optuna.trial.Trial(self._study, self._id(trial.number))
        if epoch not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            live.report(score, epoch)
        return bool(live.should_prune())

    def _tell(self, trial: Trial, about: Mapping[str, Any], **outcome: Any) -> None:
        if self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            return
        live = self._optuna.trial.Trial(self._study, self._id(trial.number))
        for name, value in about.items():
            live.set_user_attr(name, value)
        self._study.tell(trial.number, outcome.get("value"), state=outcome.get("state"))

    def _id(self, number: int) -> int:
        return int(self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _stopped(self, held: ExitStack) -> Trial | None:
        for one in self.trials():
            if one.state != "running":
                continue
            try:
                held.enter_context(locked(self._lock(one.number)))
            except LockedError:
                continue
            if one.values.keys() == self.space.keys():
                return one
            # Its process ended while its settings were drawn.
            self.give_up(one, {"reason": "it was stopped before its settings were known"}, pruned=False)
            held.close()
        return None

    def _new(self, held: ExitStack) -> Trial:
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(number)
        held.enter_context(locked(self._lock(number)))
        made = self._study.ask(self._distributions())
        return next(one for one in self.trials() if one.number == made.number)

    def _lock(self, number: int) -> Path:
        return self.folder / f".trial{number:04}.lock"

    def _sampler(self, number: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seed = int(json_sha256([self._seed, number])[:8], 16)
            return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)

    def _distributions(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        kinds = self._optuna.distributions
        for key, part in self.space.items():
            if not isinstance(part, Range):
                made[key] = kinds.CategoricalDistribution(part.values)
            elif part.whole:
                made[key] = kinds.IntDistribution(int(part.low), int(part.high), log=part.log)
            else:
                made[key] = kinds.FloatDistribution(part.low, part.high, log=part.log)
        return made

    def _values(self, one: Any) -> dict[str, Any]:
        known = self._distributions()
        if any(known.get(key) != kind for key, kind in one.distributions.items()):
            raise InputError(
                f"{self.folder / JOURNAL} has a trial of another search space "
                f"({safe_text(', '.join(sorted(one.params)), 200)}); choose another --out"
            )
        return {key: self.space[key].value(one.params[key]) for key in self.space if key in one.params}
