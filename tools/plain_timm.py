"""Train a timm ViT on a folder of images for some minutes, by a loop such as users write: the rival of `lgkd fit`.

python -m tools.plain_timm FOLDER --minutes 20 [--seed 0] [--size 96] [--patch 8] [--model vit_tiny_patch16_224]

FOLDER has train/CLASS/* and test/CLASS/*. timm's own augmentation, AdamW, cosine with warm-up, from random weights. The
steps are set by timing two, so that training ends with the minutes; the images of the test split are looked at
once, after the last epoch. Prints a line of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from timm import create_model
from timm.data import create_transform
from torch import nn
from torch.utils.data import DataLoader, Dataset

RATES = {"lr": 1e-3, "weight_decay": 0.05}
SLOWER = 1.06
"""Factor on the timed step, for what a step costs more on average."""


class Folder(Dataset[tuple[torch.Tensor, int]]):
    """Read the images of CLASS/* below a folder, decoded once."""

    def __init__(self, root: Path, transform: object, classes: list[str] | None = None) -> None:
        self.classes = classes or sorted(one.name for one in root.iterdir() if one.is_dir())
        self.transform = transform
        self.items = []
        for label, name in enumerate(self.classes):
            for file in sorted((root / name).glob("*")):
                with Image.open(file) as image:
                    self.items.append((image.convert("RGB"), label))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        image, label = self.items[place]
        return self.transform(image), label  # type: ignore[operator]


def rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: a tenth of the steps warms up, a cosine falls to 0."""
    warm = max(steps // 10, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warm) / max(steps - warm, 1)))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    given = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(given.seed)
    # Without noise on the magnitude: with it timm asks Pillow to posterise to 0 bits at times, which Pillow 12 refuses.
    augment = create_transform(given.size, is_training=True, auto_augment="rand-m9-inc1", re_prob=0.25)
    train = Folder(given.folder / "train", augment)
    test = Folder(given.folder / "test", create_transform(given.size, is_training=False, crop_pct=1.0), train.classes)
    batches = DataLoader(train, given.batch, shuffle=True, drop_last=True)
    model = create_model(given.model, num_classes=len(train.classes), img_size=given.size, patch_size=given.patch)
    optimizer = torch.optim.AdamW(model.parameters(), **RATES)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def train_step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()

    for group in optimizer.param_groups:
        group["lr"] = 0.0
    stream, times = iter(batches), []
    for _ in range(3):
        times.append(time.monotonic())
        train_step(*next(stream))
    each = (time.monotonic() - times[1]) / 2
    left = 60 * given.minutes - (time.monotonic() - began) - 0.4 * each * len(test) / given.batch
    steps, done = int(left / each / SLOWER), 0
    if steps < 1:
        raise SystemExit(f"plain_timm: no time for a step of {each:.1f} s; give more --minutes")
    while done < steps:
        for images, labels in batches:
            for group in optimizer.param_groups:
                group["lr"] = RATES["lr"] * rate(done, steps)
            train_step(images, labels)
            done += 1
            if done == steps:
                break
    model.eval()
    found, truth = [], []
    with torch.no_grad():
        for images, labels in DataLoader(test, 64):
            found += model(images).argmax(1).tolist()
            truth += labels.tolist()
    print(
        json.dumps(
            {
                "model": given.model,
                "seed": given.seed,
                "steps": steps,
                "epochs": round(steps / len(batches), 1),
                "minutes": round((time.monotonic() - began) / 60, 2),
                "top1": accuracy_score(truth, found),
                "balanced": balanced_accuracy_score(truth, found),
            }
        )
    )


if __name__ == "__main__":
    main()
