"""Dry run of a training, for `--dry-run`: its folder, data, steps and cost. Nothing is written or downloaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from torch import nn

from lgkd._internal.hardware import free_space, memory
from lgkd.config import Recipe, dump_recipe
from lgkd.data.class_balance import class_balance
from lgkd.data.prepare import Data, count_steps, prepare_data
from lgkd.data.synthetic import pictures
from lgkd.distillation.guide import Guide
from lgkd.errors import InputError
from lgkd.losses.map_loss import MapLoss
from lgkd.models.patch_size import patch_size, unseen_pixels
from lgkd.runner.build import check_teacher_classes
from lgkd.runner.cost import Cost, measure
from lgkd.runner.dry_run.dataset_outline import Counts, Outline, outline_and_count, stand_in
from lgkd.runner.dry_run.existing_runs import ExpectedRun, check_existing_runs
from lgkd.runner.dry_run.warnings import (
    about_grids,
    about_images,
    about_locality,
    about_steps,
    about_teacher,
    best_unguided,
)
from lgkd.runner.length_settings import settle_recipe, with_rules
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.runner import Runner, coarse_of
from lgkd.runner.sweep import SweepRun
from lgkd.runner.time_budget import estimated_recipe
from lgkd.training.config import Plan
from lgkd.training.peak_memory import PeakMemory

FORMAT = 1
_EXTRA_SHARE = 0.5
_LARGEST_STAND_IN = 128 << 20
_CHECKPOINTS = 2
"""Number kept at a time; each holds weights, two moments, and an average where there is one."""


@dataclass(frozen=True)
class DryRun:
    """Hold the settings and the estimated cost of a training.

    Attributes:
        kind: "teacher", "train" or "distill".
        folder: of its output.
        goes_on: whether the folder has an unfinished run that would be resumed.
        outline, counts: the images, and the numbers that are used.
        recipe, plan: of the training.
        parameters: numbers of trained parameters: of the model, and of the guides' projections.
        image_size: (height, width) of the model's images, in pixels.
        pairs: for each guided pair its layers, maps, and the compared shape.
        cost: measured on a few steps.
        problems: reasons why it would not start.
        cautions: other remarks for the user.
    """

    kind: str
    model: str
    teachers: tuple[str, ...]
    folder: Path
    goes_on: bool
    outline: Outline
    counts: Counts
    recipe: Recipe
    plan: Plan
    parameters: Mapping[str, int]
    image_size: tuple[int, int]
    pairs: tuple[Mapping[str, Any], ...]
    cost: Cost
    problems: tuple[str, ...] = ()
    cautions: tuple[str, ...] = field(default=())

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole training."""
        return self.plan.steps

    @property
    def evaluations(self) -> int:
        """Return how often the test split (and held-out images) are evaluated."""
        return math.ceil(self.plan.epochs / self.plan.evaluate_every)

    @property
    def seconds(self) -> dict[str, float]:
        """Estimate seconds: "training", "evaluation" and both "together"."""
        training = self.steps * self.cost.seconds_a_step
        tested = self.outline.test + self.counts.held_out
        evaluation = self.evaluations * tested * self.cost.seconds_an_image
        return {"training": training, "evaluation": evaluation, "together": training + evaluation}

    @property
    def disk_bytes(self) -> dict[str, int]:
        """Estimate bytes: of the run's "folder", and of the "decoded" images in the store's cache."""
        copies = _CHECKPOINTS * (3 + (self.recipe.ema is not None)) + 1
        return {"folder": 4 * copies * sum(self.parameters.values()), "decoded": self.outline.decoded_bytes}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        per_class = sorted(self.counts.train)
        return {
            "format": FORMAT,
            "kind": self.kind,
            "model": self.model,
            "teachers": list(self.teachers),
            "folder": str(self.folder),
            "goes_on": self.goes_on,
            "dataset": {
                "name": self.outline.name,
                "where": self.outline.where,
                "classes": len(self.outline.classes),
                "train_images": self.counts.images,
                "images_per_class": {"fewest": per_class[0], "most": per_class[-1]},
                "held_out_images": self.counts.held_out,
                "extra_images": self.counts.extra,
                "test_images": self.outline.test,
                "stored_size": list(self.outline.side),
            },
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_yaml": dump_recipe(self.recipe),
            "image_size": list(self.image_size),
            "device": self.plan.device,
            "precision": self.plan.precision,
            "compiled": self.plan.compile,
            "parameters": dict(self.parameters),
            "epochs": self.plan.epochs,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "steps": self.steps,
            "evaluations": self.evaluations,
            "pairs": [dict(pair) for pair in self.pairs],
            "measured": self.cost.as_dict(),
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "problems": list(self.problems),
            "cautions": list(self.cautions),
        }


def estimate_training(config: ResolvedConfig, *, runs: Sequence[SweepRun] = ()) -> DryRun:
    """Check a training, and time a few of its steps on generated images.

    Args:
        config: of the training; for a sweep that of the timed run.
        runs: all runs of a sweep.

    Raises:
        LgkdError: an error that would end the training before it starts, except those in `problems`.
    """
    options, problems = config.options, list[str]()
    ruled = config
    if options.get("time") is not None:
        # The length is known after the steps have been timed, and the settings that follow it.
        config = with_rules(config, ())
    runner = Runner(config, dry=True)
    teachers = runner.teachers
    found, counts = outline_and_count(config.dataset, [config.subset], options, groups=config.groups)
    found = replace(found, test=counts.test, notes=(*found.notes[bool(config.subset.fold and found.flat) :],))
    used = PeakMemory(runner.session.device)
    data = _stand_in(found, config.recipe)
    with catch_warnings(record=True) as heard:
        simplefilter("always")
        prepared = runner.prepare(data, steps_per_epoch=_steps(config.recipe, counts, options))
    config, recipe = runner.config, prepared.recipe
    student, guides, plan, size = prepared.student, prepared.guides, prepared.plan, prepared.image_size
    try:
        for teacher in teachers if found.named else ():
            try:
                check_teacher_classes(teacher, data)
            except InputError as error:
                problems.append(str(error))
        if found.named and not data.multi_label:
            shares = [number / sum(counts.train) for number in counts.train]
            class_balance(recipe.class_weights, recipe.logit_adjustment, shares, found.classes)
        expected = ExpectedRun.of(config, found, counts, prepared.info)
        members = runs or [SweepRun(config.folder, config.seed, guided=bool(guides))]
        goes_on, refused, cautions = check_existing_runs(expected, members, keep=bool(runs))
        problems = [*refused, *problems]
        cautions += [" ".join(str(one.message).split()) for one in heard]
        cautions += [sentence for guide in guides for sentence in about_locality(guide)]
        cautions += [sentence for guide in guides for sentence in about_grids(guide.pairs, patch_size(student), size)]
        if (unseen := unseen_pixels(student, size)) is not None:
            cautions.append(unseen)
        if (coarse := coarse_of(config, student, size)) is not None:
            cautions.append(coarse)
        pairs = tuple(pair for guide in guides for pair in _pairs(guide, len(guides) > 1))
        parameters = {"model": _count(student)}
        if guides:
            parameters["projections"] = sum(_count(guide) for guide in guides)
        # Compiling takes minutes; an eager step bounds the time from above.
        eager = replace(plan, compile=False, cuda_graphs=False)
        cost = measure(student, guides, recipe, data, prepared.loader, eager, size, used)
    finally:
        prepared.close()
    recipe, sentences = _fit_length(ruled, recipe, plan.steps_per_epoch, cost, found.test + counts.held_out)
    cautions += sentences
    plan = replace(plan, schedule=recipe.schedule)
    plan = replace(plan, evaluate_every=recipe.evaluation_interval(plan.epochs))
    best = best_unguided(data.key, (Path("runs"), config.folder.parent)) if guides else None
    cautions += [sentence for teacher in teachers for sentence in about_teacher(teacher, found, best)]
    estimate = DryRun(
        kind=prepared.info["kind"],
        model=config.model if isinstance(config.model, str) else type(config.model).__name__,
        teachers=tuple(config.teacher_names),
        folder=config.folder,
        goes_on=goes_on,
        outline=found,
        counts=counts,
        recipe=recipe,
        plan=plan,
        parameters=parameters,
        image_size=size,
        pairs=pairs,
        cost=cost,
        problems=tuple(problems),
    )
    cautions += [
        *about_images(found, counts),
        *about_steps(estimate.steps, config.role),
        *found.notes,
        *_about_left_out(options),
        *_about_room(estimate),
    ]
    cautions += _about_estimates(estimate, options)
    return replace(estimate, cautions=tuple(dict.fromkeys(cautions)))


def _fit_length(
    config: ResolvedConfig, recipe: Recipe, steps_per_epoch: int, cost: Cost, tested: int
) -> tuple[Recipe, list[str]]:
    """Choose the length of a training by its option `time`, if there is one, and the settings that follow it.

    Args:
        config: as resolved, with the rules of its recipe.
        recipe: of the timed steps.
        steps_per_epoch: optimiser steps.
        cost: measured.
        tested: images of an evaluation.

    Returns:
        The recipe, and remarks on its rules.
    """
    budget = config.options.get("time")
    if budget is None:
        sentence = settle_recipe(config, steps_per_epoch)[1]
        return recipe, [] if sentence is None else [sentence]
    evaluation = tested * cost.seconds_an_image
    chosen = estimated_recipe(
        recipe, budget, step=cost.seconds_a_step, evaluation=evaluation, steps_per_epoch=steps_per_epoch
    )
    ruled = chosen.model_copy(update={"by_length": config.recipe.by_length})
    settled, sentence = settle_recipe(config.with_resolved(options=config.options, recipe=ruled), steps_per_epoch)
    untimed = "; the steps were timed without these settings, with which the training itself is timed again"
    return settled.recipe, [] if sentence is None else [sentence + untimed]


def _about_left_out(options: Options) -> list[str]:
    if not options.get("leave_out_near_copies"):
        return []
    return ["near copies are found when the images are decoded; the figures are upper bounds, for all images"]


def _steps(recipe: Recipe, counts: Counts, options: Options) -> int:
    """Count the steps of an epoch."""
    share = options.get("extra_share")
    return count_steps(
        recipe, counts.images, counts.extra, (_EXTRA_SHARE if share is None else share) if counts.extra else 0.0
    )


def _stand_in(found: Outline, recipe: Recipe) -> Data:
    each = 3 * max(found.side) ** 2
    number = max(16, min(2 * recipe.batch_size, _LARGEST_STAND_IN // each))
    view = recipe.view
    return prepare_data(stand_in(found, number, pictures), normalize=view.normalize, channels=view.channels)


def _pairs(guide: Guide, several: bool) -> list[dict[str, Any]]:
    """List every guided pair, with the shape in which a term of maps compares it."""
    if not guide.has_teacher:
        return []
    transform = next((loss.transform for loss in guide.losses.values() if isinstance(loss, MapLoss)), None)
    card = guide.teacher.card
    teacher = card.name if card is not None else type(guide.teacher.model).__name__
    return [
        {
            "student": pair.student,
            "student_map": list(pair.student_map),
            "teacher": f"{teacher}: {pair.teacher}" if several else pair.teacher,
            "teacher_map": list(pair.teacher_map),
            "grid": list(pair.grid),
            "compared": {
                "linear": [pair.teacher_map[0], *pair.grid],
                "attention": [1, *pair.grid],
                "similarity": ["batch", "batch"],
            }.get(transform or ""),
        }
        for pair in guide.pairs
    ]


def _about_room(estimate: DryRun) -> list[str]:
    """Warn of insufficient memory or disk space."""
    said = []
    have = memory()
    cost = estimate.cost
    if cost.accumulate > estimate.plan.accumulate:
        said.append(
            f"memory ran out with the whole batch; it was split into {cost.accumulate} pieces, as in a training, "
            "which is slower: a smaller --batch-size fits"
        )
    elif have is not None and estimate.plan.device == "cpu" and cost.peak_bytes > 0.8 * have.free + cost.peak_bytes:
        said.append("most of the memory is in use; close other programs before the training starts")
    free = free_space(estimate.folder)
    if free is not None and sum(estimate.disk_bytes.values()) > free:
        said.append(
            f"the disk has {free / 2**30:.1f} GiB free, but the run with its decoded images may need "
            f"{sum(estimate.disk_bytes.values()) / 2**30:.1f} GiB; free some space"
        )
    return said


def _about_estimates(estimate: DryRun, options: Options) -> list[str]:
    """List what the estimates leave out."""
    said = []
    if estimate.plan.compile:
        what, longer = "the step", "a minute or two"
        if estimate.plan.compile == "blocks":
            what, longer = "blocks", "up to a minute"
        said.append(f"{what} would be compiled, but the step was timed in eager mode: the training takes {longer} more "
                    "to start, and less time after that")  # fmt: skip
    if options.get("cached") is not None:
        said.append(
            "with --cached the teacher is not run; it was run in the timed steps, so the training takes less time"
        )
    if estimate.counts.extra:
        said.append("extra images were counted, but not used in the timed steps")
    if not estimate.outline.named:
        said.append("the publisher's files were not opened: the numbers of images are from the catalogue")
    return said


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
