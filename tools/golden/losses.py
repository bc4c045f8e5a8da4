"""Thirty steps of small variants of every shipped student with a term of every family.

    python -m tools.golden.losses            writes tests/golden/losses.json anew
    python -m tools.golden.losses double     writes tests/golden/losses_in_double.json anew

A change that is meant to alter no numbers leaves the file as it is; one that is meant to says so and shows both.
"""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from lgkd.config import Mix, Optimizer, Schedule, View
from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD
from lgkd.data.load import load_dataset
from lgkd.data.loader import TrainLoader
from lgkd.data.names import Subset
from lgkd.data.subsets import select_subset
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.losses import TERMS as losses_by_kind
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from lgkd.training.config import Plan
from lgkd.training.loop import fit

FOLDER = Path(__file__).resolve().parent.parent.parent / "tests" / "golden"
STEPS = 30
STUDENTS = {
    "deit_tiny": (32, {"patch_size": 8, "depth": 3}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "pit_ti": (64, {"depth": (1, 1, 1)}),
    "convit_tiny": (32, {"patch_size": 8, "depth": 3, "local_up_to_layer": 2}),
}
TERMS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "linear": (lambda: MapLoss("linear"), 2.5),
    "attention": (lambda: MapLoss("attention"), 1000.0),
    "similarity": (lambda: MapLoss("similarity"), 100.0),
    "blocks": (losses_by_kind["blocks"], 2.5),
    "kd": (losses_by_kind["kd"], 0.9),
    "rkd": (losses_by_kind["rkd"], 1.0),
}
IN_DOUBLE = [("deit_tiny", term) for term in TERMS] + [("pit_ti", "linear"), ("convit_tiny", "linear")]
"""Those that are kept in double precision too; they take twice as long."""


def losses(student: str, term: str, *, double: bool = False) -> list[float]:
    """The loss of each of the steps: one batch of ten digits, drawn, mixed and shown anew every step.

    In double precision the rounding of one processor is too small to be seen after thirty steps of another.
    """
    size, options = STUDENTS[student]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_student(student, num_classes=10, image_size=size, drop_path_rate=0.1, **options)
    teacher = Teacher(CifarResNet(8, 10), image_size=16)
    make, weight = TERMS[term]
    guide = Guide(model, teacher, image_size=size, terms=[Term(make(), weight)])
    if double:
        for module in (model, teacher.model):
            module.double().register_forward_pre_hook(lambda _, args: tuple(images.double() for images in args))
        guide.double()
    images = select_subset(load_dataset("digits").train, Subset(per_class=1))
    augment = Augment(
        View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25), size, mean=IMAGENET_MEAN, std=IMAGENET_STD, seed=0
    )
    loader = TrainLoader(images, augment, Mixing(Mix(mixup=0.8, cutmix=1.0), classes=10, seed=0), batch_size=10, seed=0)
    plan = Plan(
        optimizer=Optimizer("adamw", lr=5e-4, weight_decay=0.05),
        schedule=Schedule(STEPS, warmup_epochs=5),
        steps_per_epoch=1,
        seed=0,
    )
    return [row.train["loss"] for row in fit(Guided(model, guide), loader, plan)]


def main(*, double: bool) -> None:
    pairs = IN_DOUBLE if double else [(student, term) for student in STUDENTS for term in TERMS]
    values = {f"{student} {term}": losses(student, term, double=double) for student, term in pairs}
    source = (
        f"python -m tools.golden.losses{' double' if double else ''}; torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread, {platform.machine()}"
    )
    file = FOLDER / ("losses_in_double.json" if double else "losses.json")
    file.write_text(json.dumps({"source": source, "values": values}, indent=1) + "\n")


if __name__ == "__main__":
    main(double=sys.argv[1:] == ["double"])
