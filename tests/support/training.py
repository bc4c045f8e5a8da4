"""A small guided training of everything at once, for tests of resuming: EMA, mixup, accumulation, dropout."""

import dataclasses
import hashlib
import sys
from pathlib import Path

import torch
from torch import nn

from lgkd.config import Ema, Mix, Optimizer, Schedule, View
from lgkd.data.dataset import Images
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.models.visible_patches import VisiblePatches, of_projection
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.config import Plan
from lgkd.training.loop import fit
from lgkd.training.signals import Paused, StopCondition
from tests.support.costs import is_cost

EPOCHS, STEPS = 4, 5


class TinyViT(nn.Module):
    """Three blocks with dropout on 4 x 4 tokens, and a BatchNorm, whose statistics must survive as well."""

    def __init__(self, classes: int = 3, width: int = 12) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, width, 2, stride=2), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.1, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.norm(self.patch(images)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))

    def lgkd_visible_patches(self) -> VisiblePatches:
        return of_projection(self.patch, (4, 4), 0, self.encode)

    def encode(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.patch(images)).flatten(2).transpose(1, 2)
        tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def make_images(count: int = 43, classes: int = 3) -> Images:
    draw = torch.Generator().manual_seed(5)
    return Images(
        pixels=torch.randint(0, 256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8),
        sizes=torch.full((count, 2), 8, dtype=torch.int32),
        labels=torch.arange(count) % classes,
        names=tuple(f"image{place}.png" for place in range(count)),
    )


def make_task() -> Guided:
    torch.manual_seed(1)
    student = TinyViT()
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    guide = Guide(
        student,
        teacher,
        image_size=8,
        terms=[Term(MapLoss("linear"), weight=2.5)],
        taps=["blocks.0", "blocks.1", "blocks.2"],
    )
    return Guided(student, guide)


def make_loader(images: Images, **share) -> TrainLoader:
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    augment = Augment(View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25), 8, mean=mean, std=std, seed=3)
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, smoothing=0.1, seed=3)
    return TrainLoader(images, augment, mixing, batch_size=8, seed=3, **share)


def make_plan(**changes) -> Plan:
    settings = {
        "optimizer": Optimizer("adamw", lr=1e-2, weight_decay=0.05),
        "schedule": Schedule(EPOCHS, warmup_epochs=1, stepped="step"),
        "steps_per_epoch": STEPS,
        "seed": 3,
        "accumulate": 2,
        "clip_norm": 1.0,
        "ema": Ema(0.9),
    }
    return Plan(**(settings | changes))


def train(
    root: Path | None,
    *,
    stop: StopCondition | None = None,
    every: float = 0.0,
    say=None,
    callbacks=(),
    task=None,
    **changes,
):
    """Train to the end or until stopped; the task (its student holds the average at the end) and the rows."""
    torch.set_num_threads(1)
    task = task or make_task()
    checkpointer = None if root is None else Checkpointer(root, every_seconds=every, say=say)

    def evaluate(model):
        torch.rand(7)
        return {"top1": float(sum(p.detach().double().sum() for p in model.parameters()))}

    rows = fit(
        task,
        make_loader(make_images()),
        make_plan(**changes),
        evaluate=evaluate,
        checkpointer=checkpointer,
        stop=stop,
        callbacks=callbacks,
        say=say,
    )
    return task, rows


class StopAfter(StopCondition):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def reason(self):
        self.left -= 1
        return Paused("enough") if self.left <= 0 else None


def without_times(rows):
    return [{k: v for k, v in dataclasses.asdict(row).items() if not is_cost(k)} for row in rows]


def digest(root: Path) -> str:
    """One hash over every tensor of the newest checkpoint: weights, average, moments, projections, meters."""
    newest = max(path for path in root.iterdir() if path.name.startswith("step-"))
    whole = hashlib.sha256()
    for path in sorted(newest.glob("*.safetensors")):
        whole.update(path.name.encode() + path.read_bytes())
    return newest.name + ":" + whole.hexdigest()


if __name__ == "__main__":
    with StopCondition() as signals:
        train(Path(sys.argv[1]), stop=signals, every=float(sys.argv[2]))
    print(digest(Path(sys.argv[1])))
