"""The loader against timm's own pipeline: accuracy of a short training, speed of both, and whether cost stays flat.

Not a test: nothing is asserted, and figures are of the machine and the day.

    python -m tools.against_timm training FOLDER    FOLDER/train/CLASS/*, FOLDER/test/CLASS/*, such as CIFAR-100
    python -m tools.against_timm speed              images a second of one thread, interleaved
    python -m tools.against_timm flat               cost and memory from 1,000 to 1,000,000 images
"""

import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from torch import Tensor, nn

from lgkd._internal.rng import epoch_order
from lgkd.config import Mix, View
from lgkd.data.dataset import Images
from lgkd.data.load import load_dataset
from lgkd.data.loader import EvalLoader, TrainLoader
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.models.cnn.resnet import CifarResNet

POLICY = "rand-m9-mstd0.5-inc1"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES, PER_CLASS, EPOCHS, BATCH, SCALE = 10, 60, 20, 50, (0.35, 1.0)
SEEDS = range(3)

Batches = Iterator[tuple[Tensor, Tensor]]


def timms(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> Callable[[Image.Image], Tensor]:
    """timm's training transform; posterize keeps at least one bit, because Pillow 13 refuses none."""
    whole = auto_augment.posterize
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = lambda image, bits, **_: whole(image, max(1, bits))
    return create_transform(
        size, is_training=True, scale=scale, auto_augment=POLICY, interpolation="bicubic", re_prob=0.25, re_mode="pixel"
    )


def ours(size: int, seed: int, scale: tuple[float, float] = (0.08, 1.0)) -> Augment:
    return Augment(View(scale=scale, rand_augment=POLICY, erase=0.25), size, mean=MEAN, std=STD, seed=seed)


def few(images: Images, per_class: int) -> Images:
    """The first images of each of the first classes."""
    places = [(images.labels == label).nonzero()[:per_class, 0] for label in range(CLASSES)]
    return images.take(torch.cat(places))


def pictures(images: Images) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.pixels]


def through_timm(images: Images, size: int, seed: int) -> Callable[[int], Batches]:
    transform, stored = timms(size, SCALE), pictures(images)

    def epoch(number: int) -> Batches:
        order = epoch_order(seed, number, len(images))
        for places in order.split(BATCH):
            yield torch.stack([transform(stored[place]) for place in places.tolist()]), images.labels[places]

    return epoch


def through_lgkd(images: Images, size: int, seed: int) -> Callable[[int], Batches]:
    loader = TrainLoader(
        images, ours(size, seed, SCALE), Mixing(Mix(), classes=CLASSES, seed=seed), batch_size=BATCH, seed=seed
    )

    def epoch(number: int) -> Batches:
        for batch in loader.epoch(number):
            yield batch.images, batch.targets

    return epoch


def trained(epochs: Callable[[int], Batches], test: Images, size: int, seed: int) -> float:
    """Top-1 accuracy of a ResNet-8 on the test images after the last epoch, in per cent."""
    torch.manual_seed(seed)
    model = CifarResNet(8, CLASSES)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for number in range(EPOCHS):
        model.train()
        for batch, labels in epochs(number):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimiser.step()
        schedule.step()
    model.eval()
    right = 0
    with torch.no_grad():
        for batch, labels in EvalLoader(test, Plain(size, mean=MEAN, std=STD), batch_size=250):
            right += int((model(batch).argmax(1) == labels).sum())
    return 100 * right / len(test)


def training(folder: Path) -> None:
    dataset = load_dataset(folder)
    train, test = few(dataset.train, PER_CLASS), few(dataset.test, 100)
    size = train.pixels.shape[2]
    found: dict[str, list[float]] = {"lgkd": [], "timm": []}
    for seed in SEEDS:
        np.random.seed(seed)
        random.seed(seed)
        found["timm"].append(trained(through_timm(train, size, seed), test, size, seed))
        found["lgkd"].append(trained(through_lgkd(train, size, seed), test, size, seed))
    print(f"{len(train)} images of {CLASSES} classes, {EPOCHS} epochs, top-1 on {len(test)} test images, last epoch")
    for name, values in found.items():
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name}: {statistics.mean(values):.1f} +- {statistics.stdev(values):.1f} % ({shown})")


def speed(batch: int = 64, rounds: int = 5) -> None:
    """Images a second of CPU time of one thread: the machine may be shared."""
    torch.set_num_threads(1)
    for stored, size in ((32, 32), (32, 64), (64, 64), (32, 224), (256, 224)):
        coarse = torch.nn.functional.interpolate(torch.rand(batch, 3, 8, 8), (stored, stored), mode="bicubic")
        pixels = (coarse * 255 + torch.randn(batch, 3, stored, stored) * 8).clamp(0, 255).to(torch.uint8)
        sizes, index = torch.full((batch, 2), stored), torch.arange(batch)
        transform, augment = timms(size), ours(size, 0)
        stack = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in pixels]
        augment(pixels, sizes, index, 0)
        rates: list[tuple[float, float]] = []
        for number in range(rounds):
            begin = time.thread_time()
            augment(pixels, sizes, index, number)
            middle = time.thread_time()
            torch.stack([transform(picture) for picture in stack])
            rates.append((batch / (middle - begin), batch / (time.thread_time() - middle)))
        ratios = sorted(mine / theirs for mine, theirs in rates)
        mine, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
        print(
            f"{stored:3d} -> {size:3d} px: lgkd {mine:6.0f}, timm {theirs:6.0f} images/s, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def flat(batch: int = 128, steps: int = 100) -> None:
    """Made images of 32 px, mapped from a sparse file: microseconds an image, peak memory, growth over the batches."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 10_000, 100_000, 1_000_000):
            stored = np.memmap(Path(folder) / f"{count}.bin", np.uint8, "w+", shape=(count, 3, 32, 32))
            images = Images(
                torch.from_numpy(stored),
                torch.full((count, 2), 32, dtype=torch.int32),
                torch.zeros(count, dtype=torch.int64),
                ("",) * count,
            )
            begin = time.thread_time()
            epoch_order(0, 0, count)
            ordering = time.thread_time() - begin
            loader = TrainLoader(
                images, ours(32, 0), Mixing(Mix(mixup=0.8), classes=10, seed=0), batch_size=batch, seed=0
            )
            done, spent, early = 0, 0.0, 0.0
            for epoch in range(steps):
                batches = loader.epoch(epoch)
                next(batches)
                while done < steps:
                    begin = time.thread_time()
                    if next(batches, None) is None:
                        break
                    spent += time.thread_time() - begin
                    done += 1
                    if done == steps // 5:
                        early = anonymous()
                if done == steps:
                    break
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count:9,d} images: {spent / done / batch * 1e6:6.1f} us an image, order of an epoch "
                f"{ordering * 1e3:6.1f} ms, memory {anonymous():6.0f} MB, {anonymous() - early:+.1f} MB over the last "
                f"{steps - steps // 5} batches, peak {peak:.0f} MB",
                flush=True,
            )


def anonymous() -> float:
    """Memory of this process in MB, without what is mapped from files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["training", folder]:
            training(Path(folder))
        case ["speed"]:
            speed()
        case ["flat"]:
            flat()
        case _:
            sys.exit(__doc__)
