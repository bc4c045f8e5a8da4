"""Estimate a distillation whose teachers are not trained yet: their training, and then its own with untrained ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from lgkd.data.channels import imagenet_normalisation
from lgkd.data.names import Subset
from lgkd.errors import MissingTeacherError
from lgkd.models.factory import ImageSize, create_model
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import TeacherCard
from lgkd.runner.build import load_kept_teacher
from lgkd.runner.dry_run import DryRun, estimate_training
from lgkd.runner.find_teacher import find_trained_teacher, teacher_name
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, resolve
from lgkd.runner.run_folder import run_folder

TEACHER_RECIPE = "teacher"
"""Recipe of `lgkd train-teacher`."""
_DATA = ("data_dir", "fraction", "images_per_class", "subset_seed", "folds", "fold", "device", "offline")
"""Options of the distillation that its teacher's training has, too."""


@dataclass(frozen=True)
class UntrainedTeacher:
    """Hold the estimate of a teacher's training.

    Attributes:
        name: its architecture.
        command: trains it.
        estimate: its dry run.
    """

    name: str
    command: str
    estimate: DryRun

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "name": self.name,
            "command": self.command,
            "folder": str(self.estimate.folder),
            "epochs": self.estimate.plan.epochs,
            "steps": self.estimate.steps,
            "seconds": self.estimate.seconds,
        }


def estimate_teachers(
    teachers: Sequence[str], dataset: str | Path, options: Options
) -> tuple[list[UntrainedTeacher], list[Teacher]]:
    """Estimate the training of every teacher that is not trained, by the recipe of `lgkd train-teacher`.

    Args:
        teachers: names, as for a distillation.
        dataset: a named data set or a folder of images.
        options: of the distillation.

    Returns:
        The estimates, each name once, and a teacher for each of `teachers`: untrained where it is not trained yet.

    Raises:
        LgkdError: a teacher could not be trained either.
    """
    subset = Subset.from_options(options).text
    estimates: dict[str, UntrainedTeacher] = {}
    guides: list[Teacher] = []
    for name in teachers:
        try:
            found: tuple[TeacherCard, Path] | None = find_trained_teacher(name, dataset, subset=subset)
        except MissingTeacherError as error:
            found, command = None, error.command
        if found is not None:
            guides.append(load_kept_teacher(*found))
            continue
        architecture = name.partition("--")[0]
        if architecture not in estimates:
            own = {key: value for key, value in options.items() if key in _DATA}
            if options.get("folds") is not None:
                own["groups"] = options.get("groups")  # no group is divided by the folds
            config = resolve("teacher", architecture, dataset, cast(Options, {"recipe": TEACHER_RECIPE, **own}))
            estimates[architecture] = UntrainedTeacher(architecture, command, estimate_training(config))
        made = estimates[architecture].estimate
        classes, channels = len(made.outline.classes), made.recipe.view.channels
        guides.append(untrained_teacher(architecture, classes, made.image_size, channels))
    return list(estimates.values()), guides


def resolve_with(
    guides: Sequence[Teacher],
    names: Sequence[str],
    student: str,
    dataset: str | Path,
    options: Options,
    *,
    model_options: Mapping[str, Any],
    taps: Sequence[str] | None,
    several: bool,
) -> ResolvedConfig:
    """Resolve a distillation with loaded or untrained teachers, into the folder that it has with trained ones.

    Args:
        guides, names: the teachers.
        student, dataset, options, model_options, taps, several: as for `resolve`.
    """
    subset = Subset.from_options(options).text
    by = "+".join(
        guide.card.name if guide.card is not None else teacher_name(name.partition("--")[0], subset)
        for guide, name in zip(guides, names, strict=True)
    )
    seed = None if several else options.get("seed") or 0
    folder = run_folder(student, dataset, subset, by, options["recipe"], seed, options.get("extra"))
    chosen: Options = {**options, "out": options.get("out") or folder}
    return resolve(
        "student", student, dataset, chosen, model_options=model_options, teachers=guides, taps=taps, several=several
    )


def named(found: DryRun, names: Sequence[str]) -> DryRun:
    """Return a dry run that names the teachers; that untrained ones have no card is not worth a remark."""
    cautions = tuple(one for one in found.cautions if "has no card" not in one)
    return replace(found, teachers=tuple(names), cautions=cautions)


def untrained_teacher(architecture: str, classes: int, image_size: ImageSize, channels: int = 3) -> Teacher:
    """Make an untrained teacher, whose shapes and cost are those of a trained one."""
    model = create_model(architecture, num_classes=classes, image_size=image_size, channels=channels)
    mean, std = imagenet_normalisation(channels)
    return Teacher(model, image_size=image_size, mean=mean, std=std)
