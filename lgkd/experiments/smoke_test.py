"""Smoke-test an experiment: take the first steps of its arms in a temporary folder."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd._internal.rng import seed_of, seeded
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.dataset import DataSet
from lgkd.data.sources.source import find_source
from lgkd.errors import InputError, Paused
from lgkd.experiments.select import choose_arms, dataset_of, images_of, kept_as
from lgkd.experiments.spec import Arm, Experiment
from lgkd.models.factory import create_teacher, default_image_size
from lgkd.models.teacher import Teacher
from lgkd.models.trust import trust
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve
from lgkd.runner.runner import Runner
from lgkd.training.checkpoint import load_newest

STEPS = 2
BATCH_SIZE = 8
_NOISE = 32


@dataclass(frozen=True)
class Started:
    """Represent an arm that has taken its first steps.

    Attributes:
        arm: its key.
        steps: number of steps, each in its own call that resumes from the checkpoint of the one before.
        parts: the loss and its parts, mean over the steps, as the checkpoint has them.
        seconds: duration of all steps.
    """

    arm: str
    steps: int
    parts: dict[str, float]
    seconds: float


def take_first_steps(
    experiment: Experiment,
    *,
    arms: Sequence[str] | None = None,
    dataset: DataSet | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    options: Options | None = None,
) -> list[Started]:
    """Take a few steps of every arm with small batches, guided by untrained teachers, in a temporary folder.

    Everything else is as in the real run: images, view, recipe, models, terms. Each step is a call that is stopped and
    saved after it, so that resuming is tested as well.

    Args:
        experiment: its definition.
        arms: keys; all if not given.
        dataset: instead of the experiment's, loaded.
        steps: of each arm.
        batch_size: instead of the arms'.
        options: `data_dir`, `device`, `offline`, `say`, ...

    Raises:
        InputError: an arm has fewer steps in all; also any error of the training itself.
    """
    started = []
    with tempfile.TemporaryDirectory(prefix="lgkd-first-steps-") as name:
        for arm in choose_arms(experiment, arms):
            began = time.monotonic()
            folder = Path(name) / arm.key
            for _ in range(steps):
                _one_step(experiment, arm, folder, dataset, batch_size, options or {})
            started.append(_what_came(arm, folder, time.monotonic() - began))
    return started


def _one_step(
    experiment: Experiment, arm: Arm, folder: Path, dataset: DataSet | None, batch_size: int, options: Options
) -> None:
    trust(arm.model)
    asked: Any = {**options, **arm.chosen(), "batch_size": batch_size, "seed": 0, "out": folder, "max_time": 0.0}
    source = dataset or images_of(experiment, arm, options.get("data_dir"))
    guides = [_untrained(experiment, arm.teacher, _classes(source))] if arm.teacher is not None else []
    kept = folder.parent / "kept" / arm.key / dataset_of(experiment, arm) / kept_as(arm)
    config = resolve(
        arm.role,
        arm.model,
        source,
        asked,
        model_options=arm.options,
        teachers=guides,
        taps=arm.taps,
        store=kept if arm.role == "teacher" else None,
    )
    try:
        Runner(config).run()
    except Paused:
        return
    raise InputError(f"the arm {arm.key} of {experiment.name} has fewer steps than were asked for; use a smaller batch")


def _classes(source: DataSet | str | Path) -> int:
    """Count the classes of a data set."""
    if isinstance(source, DataSet):
        return len(source.classes)
    return CATALOGUE[source].classes if isinstance(source, str) else len(find_source(source).listing().classes)


def _untrained(experiment: Experiment, key: str, classes: int) -> Teacher:
    """Build an untrained teacher of the right shape."""
    known = {arm.key: arm for arm in experiment.arms}
    arm = known.get(key)
    name = arm.model if arm is not None else key
    size = (arm.image_size if arm is not None else None) or default_image_size(name)
    with seeded(seed_of(0, "untrained teacher")), torch.no_grad():
        model = create_teacher(name, num_classes=classes, image_size=size)
        # With its initial statistics, a deep one's maps are of the order of millions.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.train()(torch.randn(_NOISE, 3, size, size))
    return Teacher(model, image_size=size)


def _what_came(arm: Arm, folder: Path, seconds: float) -> Started:
    newest = load_newest(folder / "checkpoint")
    assert newest is not None
    images = newest.state["progress"]["images"]
    means = {name: float(total) / images for name, total in newest.tensors["meters"].items()}
    return Started(arm.key, newest.step, means, seconds)
