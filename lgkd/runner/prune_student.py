"""Prune a trained student: remove its least important heads and MLP units, and write a finished run's folder."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.atomic_io import write_atomic, write_json
from lgkd._internal.manifest import MANIFEST
from lgkd._internal.metric_rules import headline_of
from lgkd._internal.safetensors_io import fill, load_weights, save_weights
from lgkd.data.batch import Batch
from lgkd.data.prepare import make_test_batches
from lgkd.distillation.importance import measure_importance, most_important
from lgkd.distillation.tasks import Guided, Supervised, Task
from lgkd.errors import InputError
from lgkd.models.memory_format import prefers_channels_last
from lgkd.models.pruned_student import prunable_parts, remove, widths_of
from lgkd.runner.build import make_task
from lgkd.runner.options import Options
from lgkd.runner.prepared import Prepared
from lgkd.runner.prune_request import check_request
from lgkd.runner.record import results
from lgkd.runner.resume import resolve_again
from lgkd.runner.runner import Runner, greys_of_run
from lgkd.runs.early_stop import KEY as STOPPED_EARLY
from lgkd.runs.early_stop import trained_epochs
from lgkd.runs.folder import (
    CHECKPOINTS,
    ENV,
    RECIPE,
    STUDENT,
    STUDENT_WEIGHTS,
    claim,
    environment,
    finish_run,
    now,
    read_metrics,
    read_run,
    read_student,
    write_metrics,
    write_run,
)
from lgkd.training.checkpoint import load_newest
from lgkd.training.evaluate import score_split

IMAGES = 2048
"""Number of training images that importance is measured on."""


@dataclass(frozen=True)
class PrunedRun:
    """Hold a pruned student.

    Attributes:
        folder: of the new run.
        student: on the CPU, in eval mode.
        options: of its constructor, `kept_heads` and `kept_units` among them.
        heads, units: indices that each block keeps, of those of the parent.
        whole: heads and units of each block before.
        parameters: number before and after.
        scores: the metric that stands for the run on the test split, before and after: top-1 accuracy, or mAP.
        images: number of training images that importance was measured on.
        guided: whether the loss had the terms of a guide.
        info: run.json of the new run.
    """

    folder: Path
    student: nn.Module
    options: dict[str, Any]
    heads: list[list[int]]
    units: list[list[int]]
    whole: list[tuple[int, int]]
    parameters: tuple[int, int]
    scores: tuple[float, float]
    images: int
    guided: bool
    info: dict[str, Any] = field(repr=False)


def prune_student(
    run: str | Path,
    keep: float,
    *,
    out: str | Path,
    keep_heads: float | None = None,
    keep_units: float | None = None,
    guided: bool = True,
    images: int = IMAGES,
    dataset: str | Path | None = None,
    options: Options | None = None,
    say: Callable[[str], None] | None = None,
) -> PrunedRun:
    """Remove the least important heads and MLP units of a finished run's student.

    Importance is first-order Taylor (`lgkd.distillation.importance`), of the training loss of the run on its augmented
    training images, with all terms of its guides at full weight. All blocks are ranked together, heads apart from
    units. The parent is not changed.

    Args:
        run: folder of a finished run of `distill` or `train`.
        keep: share of heads and of MLP units that is kept, above 0 and at most 1.
        out: folder of the new run.
        keep_heads, keep_units: shares of one of them, instead of `keep`.
        guided: use the terms of the guide; False: only the classification loss.
        images: number of training images that importance is measured on, rounded up to whole batches.
        dataset: where the images are now; by default where they were.
        options: `device`, `data_dir` and the like.
        say: called with each message for the user.

    Raises:
        InputError: no finished run of a student, other images, a share out of range, or the stored projections of a
            term are missing.
        TakenError: `out` holds something.
        MissingError: the images or the teacher are missing.
        ModelError: the student has no heads that can be removed.
    """
    folder, target = Path(run), Path(out)
    shares = check_request(folder, target, keep, keep_heads, keep_units, images)
    info, about = read_run(folder), read_student(folder)
    config = resolve_again(folder, {**(options or {}), **({"say": say} if say is not None else {})}, dataset)
    runner = Runner(config)
    prepared = runner.prepare(greys=greys_of_run(folder))
    try:
        if prepared.data.fingerprint != info["dataset"]["fingerprint"]:
            raise InputError(
                f"{prepared.data.source} has other images than {folder} was trained on (their fingerprint differs); "
                "name the folder of the same images with --dataset"
            )
        student = prepared.student
        fill(student, load_weights(folder / STUDENT_WEIGHTS, about["weights_sha256"]), str(folder / STUDENT_WEIGHTS))
        task = _make_task(prepared, folder, guided=guided).to(runner.session.device)
        found = measure_importance(task, _some(prepared, images))
    finally:
        prepared.close()
    student.requires_grad_(True).eval()
    heads, units = most_important(found.heads, shares[0]), most_important(found.units, shares[1])
    before = _count(student)
    whole = [(part.heads, part.units) for part in prunable_parts(student)]
    for part, kept_heads, kept_units in zip(prunable_parts(student), heads, units, strict=True):
        remove(part, kept_heads, kept_units)
    new = {
        "from": str(folder.resolve()),
        "sha256": about["weights_sha256"],
        "keep_heads": shares[0],
        "keep_units": shares[1],
        "criterion": "first-order Taylor",
        "terms": list(task.active_terms),
        "images": found.images,
        "parameters_before": before,
        "heads": heads,
    }
    made = {**about, "options": {**about["options"], **widths_of(student)}}
    info = _write(target, folder, info, made, prepared, student, new)
    key = f"test_{headline_of(info['dataset']).key}"
    scores = (float(read_run(folder)["results"][key]), float(info["results"][key]))
    return PrunedRun(
        target,
        student,
        made["options"],
        heads,
        units,
        whole,
        (before, _count(student)),
        scores,
        found.images,
        isinstance(task, Guided),
        info,
    )


def _make_task(prepared: Prepared, folder: Path, *, guided: bool) -> Task:
    """Build the training's task at full term weights, with the trained projections of its terms."""
    task = make_task(prepared.student, prepared.guides, prepared.recipe, prepared.balance)
    if not isinstance(task, Guided):
        return task
    if not guided:
        return Supervised(task.student, task.classification)
    projections = task.checkpoint_tensors()["guide"]
    if projections:
        stored = load_newest(folder / CHECKPOINTS)
        if stored is None:
            raise InputError(
                f"{folder} holds no checkpoint, expected one with the projections of its terms; prune a copy with its "
                "checkpoints, or without the guide's terms by --without-guide"
            )
        task.guides.load_state_dict(stored.tensors["guide"])  # type: ignore[attr-defined]
    plan = prepared.plan
    task.on_train_start(plan.length, warmup=plan.schedule.warmup_epochs)
    warmups = [state.schedule.warmup for guide in task.guides for state in guide.term_states.values()]
    task.set_epoch(max(warmups, default=0.0))
    return task


def _some(prepared: Prepared, images: int) -> Iterator[Batch]:
    """Yield batches until there are enough images, over several epochs where one has too few."""
    seen = epoch = 0
    while seen < images:
        batches: Iterable[Batch] = prepared.loader.epoch(epoch)
        for batch in batches:
            yield batch
            seen += len(batch.images)
            if seen >= images:
                break
        epoch += 1


def _write(
    target: Path,
    parent: Path,
    info: dict[str, Any],
    about: dict[str, Any],
    prepared: Prepared,
    student: nn.Module,
    new: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate the pruned student on the test split and write its folder; return run.json."""
    plan, data = prepared.plan, prepared.data
    batches = make_test_batches(
        data.test,
        image_size=prepared.image_size,
        mean=data.mean,
        std=data.std,
        interpolation=prepared.recipe.test_interpolation,
        device=plan.device,
    )
    channels_last = prefers_channels_last(student, plan.device)
    scores = score_split(student, batches, precision=plan.precision, channels_last=channels_last)
    student.to("cpu")
    before = info["results"]
    last = {key: value for key, value in read_metrics(parent)[-1].items() if not key.startswith(("test_", "val_"))}
    row = {**last, "epoch": trained_epochs(info), **{f"test_{key}": value for key, value in scores.flat().items()}}
    by_class = dict(zip(data.classes, scores.by_class, strict=True))
    kept = {key: before[key] for key in ("training_seconds", "evaluation_seconds", STOPPED_EARLY) if key in before}
    call = {**info["call"], "model_options": about["options"]}
    made = {
        **info,
        "manifest": MANIFEST,
        "status": "running",
        "started": now(),
        "student": {**info["student"], "options": about["options"], "parameters": _count(student)},
        "call": call,
        "device": plan.device,
        "pruned": new,
    }
    claim(target)
    # Without a call an incomplete folder cannot be resumed, which would train such a student from untrained weights.
    write_run(target, made | {"call": None})
    write_atomic(target / RECIPE, (parent / RECIPE).read_bytes())
    write_json(target / ENV, environment(plan.device) | {"data_fingerprint": data.fingerprint})
    write_metrics(target, [row])
    sha256 = save_weights(student.state_dict(), target / STUDENT_WEIGHTS)
    write_json(target / STUDENT, {**about, "weights_sha256": sha256})
    made = made | {"finished": now(), "results": results([row], by_class=by_class) | kept}
    finish_run(target, made)
    return made | {"status": "finished"}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
