"""Execute a prepared training: the loop, the results, and the files of a finished folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.atomic_io import write_atomic, write_json
from lgkd._internal.distributed import all_reduce_sum, gather
from lgkd._internal.locks import remove_stale_lock
from lgkd._internal.manifest import MANIFEST, remove_manifest
from lgkd._internal.metric_rules import headline_of, shows_top5
from lgkd._internal.safetensors_io import fill, load_weights, save_weights
from lgkd.config import dump_recipe
from lgkd.data.loader import EvalLoader
from lgkd.data.prepare import Data, make_test_batches
from lgkd.models.teacher_card import Accuracy, card_size
from lgkd.runner.build import make_task
from lgkd.runner.prepared import Prepared, Session
from lgkd.runner.record import CsvLogger, describe_run, results
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.run import Run
from lgkd.runner.store_teacher import keep_teacher, poor_teacher
from lgkd.runs.class_results import BY_CLASS, about_never_predicted, has_unequal_classes
from lgkd.runs.early_stop import KEY as STOPPED_EARLY
from lgkd.runs.early_stop import StoppedEarly, trained_epochs
from lgkd.runs.folder import (
    CHECKPOINTS,
    ENV,
    FORMAT,
    RECIPE,
    STUDENT,
    STUDENT_WEIGHTS,
    describe,
    environment,
    finish_run,
    has_checkpoint,
    now,
    read_metrics,
    read_student,
    write_run,
)
from lgkd.runs.identity import check_checkpoint, checkpoint_identity
from lgkd.runs.plots import draw_curves
from lgkd.training.callbacks import EpochRow
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.class_scores import ClassScores
from lgkd.training.config import Plan
from lgkd.training.early_stopping import EarlyStop
from lgkd.training.evaluate import Scores, score_split
from lgkd.training.label_scores import MultiLabelScores
from lgkd.training.loop import fit
from lgkd.training.signals import StopCondition
from lgkd.training.tracking import Tracking


def execute(config: ResolvedConfig, session: Session, prepared: Prepared) -> Run:
    """Train and write a finished folder, which this process has locked; a teacher is also put into the store."""
    folder, data, student, plan = config.folder, prepared.data, prepared.student, prepared.plan
    info = prepared.info | {"manifest": MANIFEST}
    first, force = session.first, bool(config.options.get("force"))
    # First, since it waits for git.
    about_here = environment(plan.device) | {"data_fingerprint": data.fingerprint} if first else {}

    def begin() -> None:
        if first:
            # Writing run.json before all other files identifies the folder as a run's.
            remove_manifest(folder)
            write_run(folder, info)
            write_atomic(folder / RECIPE, dump_recipe(prepared.recipe).encode())
            write_json(folder / ENV, about_here)

    # Until its checkpoint is found to fit, a folder stays unchanged.
    resumes = has_checkpoint(folder)
    if not resumes:
        begin()
    evaluation = _Evaluation(_test_batches(session, prepared), plan)
    select_by = config.options.get("select_by") or headline_of(info["dataset"]).key
    logger = CsvLogger(folder, writes=first)
    teachers = [info["teacher"], *info["more_teachers"]] if info["teacher"] else []
    judged = f"val_{select_by}" if data.val is not None else None
    early_stop = _early_stop(prepared, judged)
    checkpointer = Checkpointer(
        folder / CHECKPOINTS,
        select_on=judged,
        identity={
            "data": data.fingerprint,
            "teachers": [teacher["sha256"] for teacher in teachers],
            **checkpoint_identity(info, prepared.recipe),
        },
        check=lambda place, theirs, ours: check_checkpoint(place, theirs, ours, force=force, say=session.say),
        start_from=_continued(config),
        on_restored=begin if resumes else None,
        say=session.say,
    )
    with StopCondition(config.options.get("max_time"), session.began) as stop:
        fit(
            make_task(student, prepared.guides, prepared.recipe, prepared.balance),
            prepared.loader,
            plan,
            evaluate=evaluation,
            callbacks=(logger, *session.watchers),
            checkpointer=checkpointer,
            stop=stop,
            say=session.say,
            lookup=prepared.lookup,
            tracking=_tracking(config, session, prepared),
            early_stop=early_stop,
        )
    best = None
    if data.val is not None:
        weights, best = checkpointer.load_best()
        student.load_state_dict(weights)
    selected = best is not None and best["epoch"] != logger.rows[-1]["epoch"]
    by_class = dict(zip(data.classes, evaluation.by_class(student, again=selected), strict=True))
    student.eval().to("cpu")
    outcome = results(logger.rows, best, prepared.guides, select_by=select_by, by_class=by_class)
    if early_stop is not None and len(logger.rows) < plan.epochs:
        outcome[STOPPED_EARLY] = _stopped(plan, logger.rows[-1], early_stop, select_by).as_dict()
    info = info | {"finished": now(), "results": outcome}
    if first:
        about = _describe_student(config, prepared)
        about["weights_sha256"] = save_weights(student.state_dict(), folder / STUDENT_WEIGHTS)
        write_json(folder / STUDENT, about)
        unequal = has_unequal_classes(outcome)
        draw_curves(logger.rows, folder / "curves.png", describe(info), balanced=unequal)
        # A teacher that could not be stored is not finished: the same command stores it, without training again.
        if config.store is not None:
            poor = _keep_teacher(config, prepared, config.store, info)
        else:
            poor = poor_student(config.model_name, _accuracy(data, info), len(data.classes))
        never = about_never_predicted(outcome[BY_CLASS])
        for sentence in (poor, None if never is None else f"{config.model_name} on test: {never}"):
            if sentence is not None:
                session.say(sentence)
        finish_run(folder, info)
    return Run(student, logger.rows, folder, info | {"status": "finished"})


def _early_stop(prepared: Prepared, score: str | None) -> EarlyStop | None:
    """Make the judge of a training that may be stopped early; `score` is that of its held-out images."""
    settings = prepared.recipe.early_stopping
    if settings is None or score is None:
        return None
    return EarlyStop(settings, score, prepared.plan.schedule.warmup_epochs)


def _stopped(plan: Plan, last: Mapping[str, float], judge: EarlyStop, metric: str) -> StoppedEarly:
    """Describe the early end of a training; `last` is its last row of metrics.csv."""
    share = min(1.0, last["lr"] / plan.optimizer.lr)
    return StoppedEarly(int(last["epoch"]), plan.epochs, judge.settings.patience, metric, round(share, 6))


def _continued(config: ResolvedConfig) -> Path | None:
    """Return the folder of the checkpoints that the training continues; None where it starts from weights alone."""
    initial = config.initial
    if initial is None or initial.epochs_before is None or initial.file is None:
        return None
    return initial.file.parent / CHECKPOINTS


def _tracking(config: ResolvedConfig, session: Session, prepared: Prepared) -> Tracking | None:
    """Make the trackers, which receive the content of metrics.csv, run.json and recipe.yaml, without paths."""
    track = tuple(config.options.get("track") or ()) if session.first else ()
    if not track:
        return None
    about = describe_run(prepared.info, prepared.recipe)
    hidden = () if shows_top5(len(prepared.data.classes)) else ("test_top5", "val_top5")

    def values(row: EpochRow) -> dict[str, float]:
        return {name: value for name, value in row.flatten().items() if name not in hidden}

    return Tracking(config.folder, track, about=about, values=values, say=session.say)


def finished_run(folder: Path, info: dict[str, Any], student: nn.Module) -> Run:
    """Load a finished run from its folder.

    Args:
        folder: of the run.
        info: the content of its run.json.
        student: untrained, of the run's architecture; the trained weights are loaded into it.

    Raises:
        InputError: the folder is damaged.
    """
    remove_stale_lock(folder)  # left by a process that was killed after the end of the run
    place = folder / STUDENT_WEIGHTS
    fill(student, load_weights(place, read_student(folder)["weights_sha256"]), str(place))
    return Run(student.eval(), read_metrics(folder), folder, info)


def _test_batches(session: Session, prepared: Prepared) -> dict[str, EvalLoader]:
    """Make the batches of the evaluated splits: test and, where images are held out, validation."""
    data = prepared.data
    splits = {"test": data.test} if data.val is None else {"val": data.val, "test": data.test}
    return {
        name: make_test_batches(
            images,
            image_size=prepared.image_size,
            mean=data.mean,
            std=data.std,
            interpolation=prepared.recipe.test_interpolation,
            device=prepared.plan.device,
            rank=session.process.rank,
            processes=session.process.count,
        )
        for name, images in splits.items()
    }


class _Evaluation:
    """Evaluate a model on every split, for a row of metrics.csv, and keep the scores by class of the last time."""

    def __init__(self, batches: Mapping[str, EvalLoader], plan: Plan) -> None:
        self._batches, self._plan = batches, plan
        self._by_class: tuple[ClassScores, ...] | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the scores of every split, as `test_top1` and so on."""
        scores = {split: self._score(model, images) for split, images in self._batches.items()}
        self._by_class = scores["test"].by_class
        return {f"{split}_{name}": value for split, one in scores.items() for name, value in one.flat().items()}

    def by_class(self, model: nn.Module, *, again: bool) -> tuple[ClassScores, ...]:
        """Return the scores by class on the test split.

        Args:
            model: the trained one.
            again: evaluate it although another model was evaluated last; a training that was resumed after its last
                epoch has evaluated none.
        """
        if again or self._by_class is None:
            self._by_class = self._score(model.to(self._plan.device), self._batches["test"]).by_class
        return self._by_class

    def _score(self, model: nn.Module, images: EvalLoader) -> Scores | MultiLabelScores:
        return score_split(
            model,
            images,
            precision=self._plan.precision,
            channels_last=self._plan.channels_last,
            all_reduce_sum=all_reduce_sum,
            gather=gather,
        )


def _describe_student(config: ResolvedConfig, prepared: Prepared) -> dict[str, Any]:
    """Make student.json, which suffices to rebuild the student without the recipe."""
    data = prepared.data
    return {
        "format": FORMAT,
        "name": config.model_name if isinstance(config.model, str) else None,
        "class": type(prepared.student).__name__,
        "options": config.model_options,
        "num_classes": len(data.classes),
        "image_size": list(prepared.image_size),
        "mean": list(data.mean),
        "std": list(data.std),
        "interpolation": prepared.recipe.test_interpolation,
        "longest_side": max(data.test.pixels.shape[2:]),
        **data.greys.kept(),
        **({"multi_label": True} if data.multi_label else {}),
        "classes": list(data.classes),
    }


def _accuracy(data: Data, info: Mapping[str, Any]) -> Accuracy:
    """Make the accuracy on the test split from the results in run.json."""
    results, test = info["results"], data.test
    return Accuracy(
        top1=results["test_exact_match" if data.multi_label else "test_top1"],
        balanced_accuracy=results.get("test_balanced_accuracy"),
        map=results.get("test_map"),
        chance_map=float(test.labels.mean()) if data.multi_label else None,
        seen_classes=test.seen_classes,
        largest_class=test.largest_class,
        split="test",
        epoch=results["epoch"],
        epochs=trained_epochs(info),
        selected_on=results["selected_on"],
    )


def poor_student(name: str, accuracy: Accuracy, classes: int) -> str | None:
    """Warn of a student that has learned little; None on one that has learned something.

    Args:
        name: the student's.
        accuracy: on the test split.
        classes: their number.
    """
    poor = accuracy.no_better_than(classes)
    if poor is None:
        return None
    return (
        f"a poor student: {name} has {accuracy.shown} on {accuracy.split}, {poor}; train it longer, or with "
        "another optimizer.lr"
    )


def _keep_teacher(config: ResolvedConfig, prepared: Prepared, store: Path, info: Mapping[str, Any]) -> str | None:
    """Put a teacher into the store; return a remark on one that has learned little."""
    data, init = prepared.data, info.get("init")
    card = keep_teacher(
        store,
        prepared.student,
        {
            "architecture": config.model_name,
            "options": config.model_options,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "images": len(data.train),
            "subset": data.subset,
            "image_size": card_size(prepared.image_size),
            "mean": data.mean,
            "std": data.std,
            "accuracy": _accuracy(data, info),
            "recipe": info["recipe"] + (f", from weights of SHA-256 {init['sha256']}" if init else ""),
            "seed": info["seed"],
        },
        replace=config.replace,
        folder=config.folder,
    )
    return poor_teacher(card)
