"""A loader of a few fixed batches, a small student and a plan, for tests of the training loop."""

import torch
from torch import nn

from lgkd.config import Optimizer, Schedule
from lgkd.distillation.tasks import Batch
from lgkd.training.config import Plan

ADAMW = Optimizer("adamw", lr=1e-2, weight_decay=0.05)


class Images:
    """A loader of a few fixed batches, the same in every epoch."""

    def __init__(self, batches: int = 3, size: int = 8, count: int = 6, classes: int = 3) -> None:
        draw = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(count, 3, size, size, generator=draw), torch.randint(classes, (count,), generator=draw))
            for _ in range(batches)
        ]
        self.steps_per_epoch = batches

    def epoch(self, epoch, start=0):
        for place, (images, targets) in enumerate(self.batches[start:], start):
            yield Batch(images, targets, index=torch.arange(len(images)) + place * len(images))

    def names(self, index):
        return [f"image{place}" for place in index.tolist()]


def make_student(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))


def make_plan(epochs: int = 2, **changes) -> Plan:
    settings = {"optimizer": ADAMW, "schedule": Schedule(epochs), "steps_per_epoch": 3, "seed": 0}
    return Plan(**(settings | changes))
