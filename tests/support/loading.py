"""Images of noise of four classes, and loaders of them that mix and augment."""

import torch

from lgkd.config import Mix, View
from lgkd.data.dataset import Images
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def make_images(count: int, side: int = 12, *, seed: int = 0) -> Images:
    chance = torch.Generator().manual_seed(seed)
    return Images(
        pixels=torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=chance),
        sizes=torch.full((count, 2), side, dtype=torch.int32),
        labels=torch.arange(count) % 4,
        names=tuple(f"{seed}/{place}" for place in range(count)),
    )


def make_loader(images: Images, *, view: View | None = None, mixup: float = 0.8, **settings) -> TrainLoader:
    view = view or View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25)
    mixing = Mixing(Mix(mixup=mixup, cutmix=mixup), classes=4, smoothing=0.1, seed=5)
    return TrainLoader(
        images, Augment(view, 10, **STATISTICS, seed=5), mixing, **{"batch_size": 8, "seed": 5, **settings}
    )
