"""Guided trainings for one process or two, run by torchrun: BatchNorm, mixup and cutmix, no dropout, fp32.

    python -m torch.distributed.run ... tests/support/processes.py OUT OPTIMIZER [KEY=VALUE ...] [-- OUT OPTIMIZER ...]

One after another. Writes OUT/RANK.pt: the weights, the epochs' rows, the exact counts of the evaluation and what each
step saw.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from lgkd._internal.distributed import all_reduce_sum, join
from lgkd.config import Ema, Mix, Optimizer, Sam, Schedule, View
from lgkd.data.dataset import Images
from lgkd.data.loader import EvalLoader, TrainLoader
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.config import Plan
from lgkd.training.evaluate import score
from lgkd.training.loop import fit
from tests.support.training import TinyViT, make_images

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
OPTIMIZERS = {
    "sgd": Optimizer("sgd", lr=0.05, weight_decay=1e-3),
    # Under AdamW's usual eps, gradients that are zero but for rounding (the keys' biases) would make steps of lr.
    "adamw": Optimizer("adamw", lr=3e-3, weight_decay=0.05, eps=1e-4),
}


def make_bright(count: int) -> Images:
    """Noise whose brightness tells the class, so that there is something to be learned and to be counted."""
    images = make_images(count)
    pixels = images.pixels // 2 + (40 * images.labels[:, None, None, None]).to(torch.uint8)
    return replace(images, pixels=pixels)


def main(out: Path, optimizer: str, **chosen: str) -> None:
    settings = {"batch": 8, "steps": 50, "accumulate": 1, "transform": "linear", "teacher_bn": "running"}
    settings |= {"norm": "batch", "rho": 0.0}
    settings |= {key: type(settings[key])(value) for key, value in chosen.items()}
    who, _ = join("cpu")
    share = {"rank": who.rank, "processes": who.count}
    torch.set_num_threads(1)
    torch.manual_seed(1)
    student = TinyViT()
    # A bias ahead of a BatchNorm has no gradient but rounding, which AdamW would blow up to steps of lr.
    student.patch.bias = None
    if settings["norm"] == "none":  # pieces of a batch are others in two processes, and BatchNorm would see that
        student.norm = nn.Identity()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    teacher = Teacher(CifarResNet(8, 3), image_size=8, batch_norm=settings["teacher_bn"])
    # Of its own, so that how a teacher begins does not choose the projections. AdamW blows the rounding of a weight
    # whose gradient passes through 0 up to steps of lr; from these projections none does.
    torch.manual_seed(2)
    terms = [Term(MapLoss(settings["transform"]), weight=2.5)]
    guide = Guide(student, teacher, image_size=8, terms=terms, taps=["blocks.0", "blocks.1", "blocks.2"])
    if who.rank:  # what the processes began with must not matter
        for parameter in student.parameters():
            parameter.data.add_(1.0)
    images, test = make_bright(59), make_bright(101)
    augment = Augment(View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25), 8, mean=MEAN, std=STD, seed=3)
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, smoothing=0.1, seed=3)
    loader = TrainLoader(images, augment, mixing, batch_size=settings["batch"], seed=3, drop_last=False, **share)
    batches = EvalLoader(test, Plain(8, mean=MEAN, std=STD), batch_size=16, **share)
    epochs = -(-settings["steps"] // loader.steps_per_epoch)
    plan = Plan(
        optimizer=OPTIMIZERS[optimizer],
        schedule=Schedule(epochs, warmup_epochs=1),
        steps_per_epoch=loader.steps_per_epoch,
        seed=3,
        accumulate=settings["accumulate"],
        clip_norm=1.0,
        ema=Ema(0.9),
        sam=Sam(settings["rho"]) if settings["rho"] else None,
    )
    counts = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        found = score(model, batches, all_reduce_sum=all_reduce_sum)
        counts.append((found.images, round(found.top1 * 101), round(found.top5 * 101), found.per_class))
        return {"loss": found.loss}

    task = Guided(student, guide)
    rows = fit(task, loader, plan, evaluate=evaluate)
    torch.save(
        {
            "weights": dict(task.state_dict()),
            "counts": counts,
            "rows": [(row.train, row.scores) for row in rows],
            "steps": epochs * loader.steps_per_epoch,
        },
        out / f"{who.rank}.pt",
    )


if __name__ == "__main__":
    rest = sys.argv[1:]
    while rest:
        end = rest.index("--") if "--" in rest else len(rest)
        (out, optimizer, *words), rest = rest[:end], rest[end + 1 :]
        main(Path(out), optimizer, **dict(word.split("=") for word in words))
