"""Caches of a small teacher's outputs, written and looked up; and a teacher that sees only single pixels."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lgkd.config import Mix, View
from lgkd.data.dataset import Images
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.distillation.teacher_cache.lookup import CachedFeatures
from lgkd.distillation.teacher_cache.storage import Layout, open_cache
from lgkd.distillation.teacher_cache.writer import write_cache
from lgkd.losses import MapLoss
from lgkd.losses.kd import KD
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from tests.support.training import TinyViT

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
VIEWS = 2
PLAIN = Mixing(Mix(), classes=3, seed=3)


def make_guide(student: nn.Module) -> Guide:
    torch.manual_seed(6)
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    return Guide(
        student,
        teacher,
        image_size=8,
        terms=[Term(MapLoss("linear"), weight=2.5), Term(KD(), weight=0.5)],
        taps=["blocks.0", "blocks.1", "blocks.2"],
        mean=MEAN,
        std=STD,
    )


def make_task() -> Guided:
    torch.manual_seed(1)
    student = TinyViT()
    return Guided(student, make_guide(student))


def augment(**changes) -> Augment:
    settings = {"rand_augment": "rand-m9-mstd0.5-inc1", "erase": 0.25, "fixed": VIEWS} | changes
    return Augment(View(**settings), 8, mean=MEAN, std=STD, seed=3)


def make_loader(images: Images, drawn: Augment, mixing: Mixing = PLAIN) -> TrainLoader:
    return TrainLoader(images, drawn, mixing, batch_size=8, seed=3)


def write(folder: Path, guide: Guide, images: Images, draw, *, mode: str = "views", storage: str = "fp32", **more):
    layout = Layout(guide.teaches, 1 if mode == "replay" else VIEWS, len(images), storage)  # type: ignore[arg-type]
    settings = {"identity": {"mode": mode}, "about": {}, "device": "cpu", "batch_size": 16} | more
    return open_cache(write_cache(folder, guide, images, draw, layout=layout, **settings))


def whole_images(pixels: Tensor, sizes: Tensor, index: Tensor, view: int) -> Tensor:
    return Plain(8, mean=MEAN, std=STD)(pixels, sizes)


def looked_up(cache, guide: Guide, images: Images, drawn: Augment, mixing: Mixing = PLAIN) -> CachedFeatures:
    return CachedFeatures([cache], [guide], drawn, mixing, sizes=images.sizes, device="cpu")


class Pixelwise(nn.Module):
    """A teacher that looks at single pixels, so that it knows no difference between moving images and moving maps."""

    lgkd_taps = ("mix",)

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(images).mean(dim=(2, 3)))


def pixelwise_guide() -> Guide:
    torch.manual_seed(2)
    teacher = Teacher(Pixelwise(), image_size=8, mean=MEAN, std=STD)
    terms = [Term(MapLoss("linear"))]
    return Guide(TinyViT(), teacher, image_size=8, terms=terms, taps=["blocks.0"], mean=MEAN, std=STD)
