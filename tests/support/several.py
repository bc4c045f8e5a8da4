"""Trainings for two or three processes, run by torchrun: branches, going on after a stop, and agreeing about it.

    python -m torch.distributed.run ... tests/support/several.py OUT

Writes OUT/RANK.pt: what every part found.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.distributed import Place, join
from lgkd.config import Mix, Optimizer, Schedule, TermSchedule, View
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Supervised
from lgkd.errors import ModelError, Paused
from lgkd.losses import CRD, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training import agreement
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.signals import StopCondition
from lgkd.training.train_step import Engine
from tests.support.training import TinyViT, digest, make_images, make_plan

BRIGHT, DARK = 5, 4
"""Images of the processes of even and of odd rank."""

STUDENTS = ("own", "foreign", "memory")
"""Known modules, foreign ones, and a term that remembers every image."""

NEVER = 1000
"""More steps than there are."""


class Forked(nn.Module):
    """Takes one of two ways, by how bright its images are.

    Args:
        left, right: widths of the two ways.
        norm: whether a BatchNorm stands ahead of both.
        inside: whether one stands in the left and in the right way.
        both: whether both ways are taken, and one of them is thrown away.
    """

    def __init__(
        self, left: int, right: int, *, norm: bool, inside: tuple[bool, bool] = (False, False), both: bool = False
    ) -> None:
        super().__init__()
        self.both = both
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        # Registered before what both use, so that its gradients are the last ones of a backward pass.
        self.left, self.right = _way(left, inside[0]), _way(right, inside[1])
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.bool))

    def forward(self, images: Tensor) -> Tensor:
        bright = bool(images.mean() > 0)
        self.seen[int(bright)] = True
        hidden = self.norm(self.stem(images)).mean((2, 3))
        if self.both:
            ways = self.left(hidden), self.right(hidden)
            return self.head(ways[0] if bright else ways[1])
        return self.head((self.left if bright else self.right)(hidden))


def _way(width: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width) if norm else nn.Tanh(), nn.Linear(width, 4))


def forked_batch(rank: int, pieces: int) -> tuple[Tensor, Tensor]:
    """A share of a batch; with two pieces of different brightness where `pieces` is 2."""
    draw = torch.Generator().manual_seed(rank)
    count = DARK if rank % 2 else BRIGHT
    images = torch.rand(count, 3, 4, 4, generator=draw) + 0.5
    if rank % 2:
        images = -images
    if pieces == 2 and rank == 0:  # this process takes both ways, the way that all take last at first
        images[-(count // 2) :] *= -1
    return images, torch.arange(count) % 3


WAYS: dict[str, dict[str, Any]] = {
    "equal": {"left": 6, "right": 6, "norm": False, "accumulate": 1},
    "unequal": {"left": 6, "right": 9, "norm": False, "accumulate": 1},
    "pieces": {"left": 6, "right": 9, "norm": False, "accumulate": 2},
    "norm": {"left": 6, "right": 6, "norm": True, "accumulate": 1},
}

NORMS: dict[str, dict[str, Any]] = {
    "equal": {"left": 6, "right": 6, "norm": False, "inside": (True, True)},
    "unequal": {"left": 6, "right": 9, "norm": False, "inside": (True, True)},
    "one": {"left": 6, "right": 6, "norm": True, "inside": (True, False)},
    "thrown away": {"left": 6, "right": 6, "norm": False, "inside": (True, True), "both": True},
}
"""Ways with a BatchNorm in a branch that not all processes take: nothing that several could train."""


def make_forked(way: str) -> Forked:
    torch.manual_seed(2)
    return Forked(**{key: value for key, value in WAYS[way].items() if key != "accumulate"})


def refusal(way: str, who: Place) -> str:
    """What a step of such a model ends with."""
    torch.manual_seed(2)
    task = Supervised(Forked(**NORMS[way]))
    engine = Engine(task, make_plan(ema=None), names=lambda _: [])
    task.train()
    images, targets = forked_batch(who.rank, 1)
    try:
        engine.step(Batch(images, targets, index=torch.arange(len(images))), 0, 0, RunningMean())
    except ModelError as error:
        return str(error)
    finally:
        engine.close()
    return "none"


def train_forked(way: str, who: Place) -> dict[str, Tensor]:
    """Two steps of plain descent; the weights."""
    task = Supervised(make_forked(way))
    plan = make_plan(
        optimizer=Optimizer("sgd", lr=0.5, weight_decay=0.0, momentum=0.0, nesterov=False),
        schedule=Schedule(1, min_lr=0.5),
        accumulate=WAYS[way]["accumulate"],
        clip_norm=None,
        ema=None,
    )
    engine = Engine(task, plan, names=lambda _: [])
    task.train()
    images, targets = forked_batch(who.rank, WAYS[way]["accumulate"])
    for step in range(2):
        engine.step(Batch(images, targets, index=torch.arange(len(images))), 0, step, RunningMean())
    names = [name for name, _ in task.named_parameters()]
    engine.close()
    assert names == [name for name, _ in task.named_parameters()]
    return {name: value.detach().clone() for name, value in task.state_dict().items()}


class Steps:
    """Counts the steps that a process has made; the loop asks it what teachers make of a batch, and it never knows."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, index: Tensor, epoch: int) -> tuple[None]:
        self.made += 1
        return (None,)


class StopAfter(StopCondition):
    """Asks to stop once so many steps are made."""

    def __init__(self, number: int, steps: Steps) -> None:
        super().__init__()
        self.number, self.steps = number, steps

    def reason(self) -> Paused | None:
        return Paused("enough") if self.steps.made >= self.number else None


def make_guided(student: str) -> Guided:
    torch.manual_seed(1)
    model, taps = (TinyViT(), ["blocks.0", "blocks.1"]) if student == "foreign" else (CifarResNet(8, 3), None)
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    teacher_taps = teacher.taps[:2] if taps else None
    if student == "memory":
        remembers = [Term(CRD(20, width=8))]
        return Guided(model, Guide(model, teacher, image_size=8, terms=remembers, labels=make_images().labels))
    terms = [
        Term(MapLoss("linear"), weight=2.5),
        Term(MapLoss("linear"), name="early", schedule=TermSchedule(until=1)),
    ]
    return Guided(model, Guide(model, teacher, image_size=8, terms=terms, taps=taps, teacher_taps=teacher_taps))


def train_guided(root: Path, who: Place, student: str, stop_after: int) -> dict[str, Any]:
    """Three epochs of five steps, of which a term lasts one; how it ended."""
    task, steps = make_guided(student), Steps()
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    augment, mixing = Augment(View(), 8, mean=mean, std=std, seed=3), Mixing(Mix(), classes=3, smoothing=0.1, seed=3)
    loader = TrainLoader(make_images(), augment, mixing, batch_size=8, seed=3, rank=who.rank, processes=who.count)
    plan = make_plan(schedule=Schedule(3), accumulate=1)
    checkpointer = Checkpointer(root, every_seconds=1e9)
    rows, paused = [], False
    try:
        rows = fit(task, loader, plan, checkpointer=checkpointer, stop=StopAfter(stop_after, steps), lookup=steps)
    except Paused:
        paused = True
    return {
        "weights": {name: value.detach().clone() for name, value in task.state_dict().items()},
        "rows": [row.train for row in rows],
        "paused": paused,
        "steps": steps.made,
        "digest": digest(root),
    }


def main(out: Path) -> None:
    who, _ = join("cpu")
    torch.set_num_threads(1)
    found: dict[str, Any] = {way: train_forked(way, who) for way in WAYS}
    found["refusals"] = {way: refusal(way, who) for way in NORMS}
    usual, agreement.STEPS = agreement.STEPS, 1  # so that they stop where they are asked to
    for student in STUDENTS:
        found[f"{student} whole"] = train_guided(out / student / "whole", who, student, NEVER)
        # Within the first epoch, at its end, within the second, and not any more.
        for number, after in enumerate((3, 2, 2, NEVER)):
            found[f"{student} part {number}"] = train_guided(out / student / "parts", who, student, after)
    agreement.STEPS = usual
    # One process alone is asked to stop.
    found["asked"] = train_guided(out / "asked", who, "own", 3 if who.rank == 1 else NEVER)
    torch.save(found, out / f"{who.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
