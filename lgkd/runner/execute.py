"""From everything that is ready to a finished folder: the loop, the results, what is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.atomic_io import write_json, write_whole
from lgkd._internal.distributed import Place, add_up
from lgkd._internal.manifest import MANIFEST, remove_manifest
from lgkd._internal.safetensors_io import fill, load_weights, save_weights
from lgkd.config import Recipe, dump_recipe
from lgkd.data.loader import Feed, PlainBatches
from lgkd.data.prepare import Data, make_test_batches
from lgkd.distillation.guide import Guide
from lgkd.distillation.tasks import Lookup
from lgkd.models.registry import canonical
from lgkd.models.teacher_card import Accuracy
from lgkd.runner.build import make_task
from lgkd.runner.record import Journal, about_run, flat, results
from lgkd.runner.run import Run
from lgkd.runner.teacher_store import keep_teacher, poor_teacher
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
from lgkd.training.callbacks import Watcher
from lgkd.training.checkpointer import Keeper
from lgkd.training.config import Plan
from lgkd.training.evaluate import score
from lgkd.training.loop import fit
from lgkd.training.signals import Stop
from lgkd.training.tracking import Tracking


@dataclass(frozen=True)
class Ready:
    """One training of which everything has been checked and built.

    Attributes:
        folder: of the run; this process holds it.
        info: the content of run.json so far.
        recipe, data, student, guides, feed, plan: what trains; there are no guides for a teacher and for a baseline.
        lookup: knows what the teachers make of samples, so that they are not run; None: they are.
        image_size: (height, width) of the student's images, in pixels.
        name: what the model is called; None for a module that was handed over.
        model_options: reached its constructor.
        process: which of several processes this one is; the first writes for all.
        began: `time.monotonic()` at the start of the command, from which `max_time` counts, in seconds.
        watchers: told of the training's progress.
        say: called with a sentence that the user should hear.
        store: where a trained teacher is kept; None for a student.
        replace: whether a teacher that lies there is exchanged.
        force: whether a checkpoint of other settings is gone on with.
        track: trackers that are told of the training, by name or as objects; none but in the first process.
    """

    folder: Path
    info: dict[str, Any]
    recipe: Recipe
    data: Data
    student: nn.Module
    guides: tuple[Guide, ...]
    feed: Feed
    lookup: Lookup | None
    plan: Plan
    image_size: tuple[int, int]
    name: str | None
    model_options: Mapping[str, Any]
    process: Place
    began: float
    max_time: float | None
    watchers: tuple[Watcher, ...]
    say: Callable[[str], None]
    store: Path | None
    replace: bool
    force: bool = False
    track: tuple[Any, ...] = ()


def carry_out(ready: Ready) -> Run:
    """Train, and leave a finished folder; a teacher goes to the store, too."""
    folder, data, student, plan = ready.folder, ready.data, ready.student, ready.plan
    info = ready.info | {"manifest": MANIFEST}
    first = ready.process.rank == 0
    # First, since it waits for git.
    about_here = environment(plan.device) | {"data_fingerprint": data.fingerprint} if first else {}

    def begin() -> None:
        if first:
            # That run.json comes before all other files makes the folder known as a run's.
            remove_manifest(folder)
            write_run(folder, info)
            write_whole(folder / RECIPE, dump_recipe(ready.recipe).encode())
            write_json(folder / ENV, about_here)

    # Until its checkpoint is found to fit, a folder stays as it is.
    resumes = has_checkpoint(folder)
    if not resumes:
        begin()
    batches = _test_batches(ready)
    journal = Journal(folder, writes=first)
    teachers = [info["teacher"], *info["more_teachers"]] if info["teacher"] else []
    keeper = Keeper(
        folder / CHECKPOINTS,
        select_on="val_top1" if data.val is not None else None,
        identity={
            "data": data.fingerprint,
            "teachers": [teacher["sha256"] for teacher in teachers],
            **checkpoint_identity(info, ready.recipe),
        },
        check=lambda place, theirs, ours: check_checkpoint(place, theirs, ours, force=ready.force, say=ready.say),
        on_restored=begin if resumes else None,
        say=ready.say,
    )
    with Stop(ready.max_time, ready.began) as stop:
        fit(
            make_task(student, ready.guides, ready.recipe),
            ready.feed,
            plan,
            evaluate=lambda model: _scores(model, batches, plan),
            watchers=(journal, *ready.watchers),
            keeper=keeper,
            stop=stop,
            say=ready.say,
            lookup=ready.lookup,
            tracking=_tracking(ready),
        )
    best = None
    if data.val is not None:
        weights, best = keeper.load_best()
        student.load_state_dict(weights)
    student.eval().to("cpu")
    info = info | {"finished": now(), "results": results(journal.rows, best, ready.guides)}
    if first:
        about = _about_student(ready)
        about["weights_sha256"] = save_weights(student.state_dict(), folder / STUDENT_WEIGHTS)
        write_json(folder / STUDENT, about)
        draw_curves(journal.rows, folder / "curves.png", describe(info))
        # Nothing is finished that could not be kept: the same command puts it there, and trains nothing again.
        if ready.store is not None:
            _keep_teacher(ready, ready.store, info)
        elif (remark := poor_student(info["student"]["name"], _accuracy(ready, info), len(data.classes))) is not None:
            ready.say(remark)
        finish_run(folder, info)
    return Run(student, journal.rows, folder, info | {"status": "finished"})


def _tracking(ready: Ready) -> Tracking | None:
    """The trackers, told of the run what metrics.csv, run.json and recipe.yaml say; paths are nobody else's affair."""
    if not ready.track:
        return None
    about = about_run(ready.info, ready.recipe)
    return Tracking(ready.folder, ready.track, about=about, values=flat, say=ready.say)


def finished_run(folder: Path, info: dict[str, Any], student: nn.Module) -> Run:
    """A finished run as it lies in its folder.

    Args:
        folder: of the run.
        info: the content of its run.json.
        student: untrained, of the run's architecture; it is filled with the trained weights.

    Raises:
        InputError: the folder is damaged.
    """
    place = folder / STUDENT_WEIGHTS
    fill(student, load_weights(place, read_student(folder)["weights_sha256"]), str(place))
    return Run(student.eval(), read_metrics(folder), folder, info)


def _test_batches(ready: Ready) -> dict[str, PlainBatches]:
    """The splits that are scored; where images were held out, they too."""
    data = ready.data
    splits = {"test": data.test} if data.val is None else {"val": data.val, "test": data.test}
    return {
        name: make_test_batches(
            images,
            image_size=ready.image_size,
            mean=data.mean,
            std=data.std,
            interpolation=ready.recipe.test_interpolation,
            device=ready.plan.device,
            rank=ready.process.rank,
            processes=ready.process.count,
        )
        for name, images in splits.items()
    }


def _scores(model: nn.Module, batches: Mapping[str, PlainBatches], plan: Plan) -> dict[str, float]:
    """Every split's scores, as `test_top1` and so on."""
    return {
        f"{split}_{name}": value
        for split, images in batches.items()
        for name, value in score(
            model, images, precision=plan.precision, channels_last=plan.channels_last, add_up=add_up
        )
        .flat()
        .items()
    }


def _about_student(ready: Ready) -> dict[str, Any]:
    """student.json: enough to rebuild the student without the recipe."""
    return {
        "format": FORMAT,
        "name": canonical(ready.name) if ready.name is not None else None,
        "class": type(ready.student).__name__,
        "options": ready.model_options,
        "num_classes": len(ready.data.classes),
        "image_size": list(ready.image_size),
        "mean": list(ready.data.mean),
        "std": list(ready.data.std),
        "interpolation": ready.recipe.test_interpolation,
        "longest_side": max(ready.data.test.pixels.shape[2:]),
        **ready.data.greys.kept(),
        "classes": list(ready.data.classes),
    }


def _accuracy(ready: Ready, info: Mapping[str, Any]) -> Accuracy:
    """How good the model is on the test split, by the results in run.json."""
    results, test = info["results"], ready.data.test
    return Accuracy(
        top1=results["test_top1"],
        balanced_accuracy=results.get("test_balanced_accuracy"),
        seen_classes=test.seen_classes,
        largest_class=test.largest_class,
        split="test",
        epoch=results["epoch"],
        epochs=info["epochs"],
        selected_on=results["selected_on"],
    )


def poor_student(name: str, accuracy: Accuracy, classes: int) -> str | None:
    """Remark on a student that has learned little; None on one that has learned something.

    Args:
        name: the student's.
        accuracy: on the test split.
        classes: how many it knows.
    """
    poor = accuracy.no_better_than(classes)
    if poor is None:
        return None
    return (
        f"a poor student: {name} has {accuracy.top1:.1%} top-1 on {accuracy.split}, {poor}; train it longer, or with "
        "another optimizer.lr"
    )


def _keep_teacher(ready: Ready, store: Path, info: Mapping[str, Any]) -> None:
    assert ready.name is not None
    data = ready.data
    card = keep_teacher(
        store,
        ready.student,
        {
            "architecture": canonical(ready.name),
            "options": ready.model_options,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "images": len(data.train),
            "subset": data.subset,
            "image_size": ready.image_size[0],
            "mean": data.mean,
            "std": data.std,
            "accuracy": _accuracy(ready, info),
            "recipe": info["recipe"],
            "seed": info["seed"],
        },
        replace=ready.replace,
        folder=ready.folder,
    )
    if (remark := poor_teacher(card)) is not None:
        ready.say(remark)
