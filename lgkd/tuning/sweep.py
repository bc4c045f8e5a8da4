"""Search settings of a recipe: train one trial after another, each judged on held-out images alone.

OUT/sweep.json              the request, and the outcome
OUT/journal.log             Optuna's journal of all trials
OUT/trials/0000/ ...        the runs
OUT/trials.csv, best.yaml   the trials by score, and the recipe of the best

The same command resumes a stopped sweep; two processes may run it in one folder.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgkd import __version__
from lgkd._internal.atomic_io import write_json
from lgkd._internal.locks import locked
from lgkd._internal.text import safe_text
from lgkd.errors import InputError, NonFiniteError, TakenError
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve
from lgkd.runner.run import Run
from lgkd.runner.runner import Runner
from lgkd.runner.sweep import Watch, check_time, no_callbacks, said_once, signals_between
from lgkd.runs.folder import CHECKPOINTS, is_untouched, make_folder
from lgkd.runs.identity import differences, lines_of
from lgkd.training.callbacks import Callback, EpochRow
from lgkd.tuning.outcome import Swept, summarise
from lgkd.tuning.request import SweepRequest
from lgkd.tuning.study import JOURNAL, LOCK, Study, Trial

SWEEP, TRIALS = "sweep.json", "trials"
_FORMAT = 1
_MOST_FAILURES = 3


class _PrunedError(Exception):
    """Raised within a training to end its trial."""


def run_sweep(request: SweepRequest, *, watch: Watch | None = None) -> Swept:
    """Run the trials of a sweep, or the rest of them.

    Args:
        request: the arguments.
        watch: makes the callbacks of a training from its title.

    Raises:
        TakenError: the folder holds something else, or a sweep of other arguments.
        InputError: the first trials cannot be trained.
        Paused, Interrupted: repeat the call to resume.
    """
    folder = request.folder
    _check_folder(folder, request)
    make_folder(folder)
    with locked(folder / LOCK, wait=True):
        _check_folder(folder, request)
        if not (folder / SWEEP).is_file():
            write_json(folder / SWEEP, {"format": _FORMAT, "lgkd": __version__, "request": request.as_dict()})
    return _Sweep(request, watch or no_callbacks).run()


class _Sweep:
    """Run the trials that are left of a sweep whose folder is its own."""

    def __init__(self, request: SweepRequest, watch: Watch) -> None:
        self.request, self.watch, self.folder = request, watch, request.folder
        warmup = int(request.resolved({}).schedule.warmup_epochs)
        self.study = Study(self.folder, request.space, seed=request.seed, prune=request.prune, warmup=warmup)
        self.began, self.trained = time.monotonic(), 0
        self.said = set[str]()

    def run(self) -> Swept:
        """Train until the budget is spent; then summarise."""
        request = self.request
        while True:
            if self.trained:
                check_time(self.began, request.options.get("max_time"))
            with signals_between(), self.study.claimed(request.trials, may_start=self._in_time()) as trial:
                if trial is None:
                    break
                self._try(trial)
                self.trained += 1
        return self._summarise()

    def _in_time(self) -> bool:
        """Return true if another trial would probably end within the time: by the mean of those before it."""
        if self.request.seconds is None:
            return True
        spent = [float(one.about.get("seconds", 0.0)) for one in self.study.trials() if one.state != "running"]
        mean = sum(spent) / len(spent) if spent else 0.0
        return sum(spent) + mean < self.request.seconds

    def _try(self, trial: Trial) -> None:
        """Train a trial, and record its score, or the reason why there is none."""
        request, began = self.request, time.monotonic()
        words = ", ".join(f"{key}={value}" for key, value in trial.values.items())
        with self.watch(f"trial {trial.number + 1}/{request.trials} {words}") as callbacks:
            own = said_once(callbacks, self.said)
            say = own.get("say") or request.options.get("say") or (lambda _: None)
            try:
                run = self._train(trial, own)
            except _PrunedError:
                shutil.rmtree(self._run_of(trial) / CHECKPOINTS, ignore_errors=True)
                self.study.give_up(trial, self._about(began, "worse than the median"), pruned=True)
                say(f"trial {trial.number + 1} is pruned: below the median of earlier trials")
                return
            except NonFiniteError as error:
                self.study.give_up(trial, self._about(began, str(error)), pruned=True)
                say(f"trial {trial.number + 1} diverged: {error}")
                return
            except InputError as error:
                self.study.give_up(trial, self._about(began, str(error)), pruned=False)
                say(f"trial {trial.number + 1} cannot be trained: {error}")
                tried = self.study.trials()
                if len(tried) >= _MOST_FAILURES and all(one.state in ("failed", "running") for one in tried):
                    raise
                return
        results = run.info["results"]
        self.study.finish(
            trial,
            float(results[f"val_{request.metric}"]),
            {
                "seconds": round(results["training_seconds"] + results["evaluation_seconds"], 1),
                "epoch": results["epoch"],
                "parameters": run.info["student"]["parameters"],
            },
        )

    def _train(self, trial: Trial, callbacks: Options) -> Run:
        request = self.request
        options: Options = {
            **request.options,
            "recipe": request.recipe,
            "overrides": request.overrides(dict(trial.values)),
            "seed": request.seed,
            "out": self._run_of(trial),
            **callbacks,
        }
        if request.prune:
            judge = _Pruner(self.study, trial, f"val_{request.metric}")
            options["watchers"] = (*(options.get("watchers") or ()), judge)
        config = resolve(
            "student", request.student, request.dataset, options, model_options=request.student_options,
            teachers=request.teachers, taps=request.taps,
        )  # fmt: skip
        return Runner(config, began=self.began).run(keep=True)

    def _run_of(self, trial: Trial) -> Path:
        return self.folder / TRIALS / f"{trial.number:04}"

    @staticmethod
    def _about(began: float, reason: str) -> dict[str, Any]:
        return {"seconds": round(time.monotonic() - began, 1), "reason": safe_text(" ".join(reason.split()), 300)}

    def _summarise(self) -> Swept:
        request, trials = self.request, self.study.trials()
        rows = [
            {
                "trial": one.number,
                "state": one.state,
                "score": one.score,
                "epoch": one.about.get("epoch"),
                "seconds": one.about.get("seconds"),
                **one.values,
            }
            for one in trials
        ]
        command = f"lgkd sweep, seed {request.seed}, over " + ", ".join(
            f"{key}={part}" for key, part in request.space.items()
        )
        with locked(self.folder / LOCK, wait=True):
            folders = {one.number: self._run_of(one) for one in trials}
            found = summarise(self.folder, request.metric, rows, folders, command)
            outcome = {key: value for key, value in found.as_dict().items() if key not in ("folder", "recipe")}
            write_json(
                self.folder / SWEEP,
                {"format": _FORMAT, "lgkd": __version__, "request": request.as_dict(), "outcome": outcome},
            )
        return found


class _Pruner(Callback):
    """End a training that is worse than the median of earlier ones at the same epoch."""

    def __init__(self, study: Study, trial: Trial, score: str) -> None:
        self._study, self._trial, self._score = study, trial, score

    def on_epoch(self, row: EpochRow) -> None:
        """Report the score of the held-out images."""
        found = row.scores.get(self._score)
        if found is not None and self._study.should_prune(self._trial, row.epoch, found):
            raise _PrunedError

    def on_resume(self, rows: Any) -> None:
        """Do nothing: these epochs were reported when they were trained."""


def _check_folder(folder: Path, request: SweepRequest) -> None:
    """Check that a folder is free, or holds this sweep.

    Raises:
        TakenError: it holds something else, or a sweep of other arguments.
        InputError: its sweep.json is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected a folder for a sweep; choose another --out")
    file = folder / SWEEP
    if not file.is_file():
        ours = {LOCK, JOURNAL}
        if folder.is_dir() and not is_untouched(folder, SWEEP) and {path.name for path in folder.iterdir()} - ours:
            name = safe_text(min(path.name for path in folder.iterdir() if path.name not in ours))
            raise TakenError(f"{folder} already holds {name} and no {SWEEP}; nothing was touched. Choose another --out")
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); it is damaged, choose another --out") from None
    if not isinstance(stored, Mapping):
        raise InputError(f"{file} holds no request of a sweep; it is damaged, choose another --out")
    changes = differences(_flat(stored), _flat(json.loads(json.dumps(request.as_dict()))))
    if changes:
        raise TakenError(
            f"{folder} holds a sweep of other arguments; nothing was touched. Repeat it with these, or choose another "
            f"--out:\n  {lines_of(changes)}"
        )


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        flat |= _flat(inner, name) if isinstance(inner, Mapping) and inner else {name: inner}
    return flat
