"""Small pictures of noise, in folders and as tensors, and what is said of bad ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lgkd.cli import run
from lgkd.data.dataset import DataSet, Images, fingerprint_of
from lgkd.data.load import load_dataset


def noise(seed: int, height: int = 6, width: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path, *parts: str, count: int = 2) -> Path:
    """Folders of `count` small PNGs; pixels depend on the place in the call alone."""
    for number, part in enumerate(parts):
        for image in range(count):
            save(root / part / f"{image}.png", noise(100 * number + image))
    return root


def two_splits(root: Path) -> Path:
    return tree(root, "train/a", "train/b", "test/a", "test/b")


def message(error: type[Exception], name: object, **options: object) -> str:
    with pytest.raises(error) as caught:
        load_dataset(name, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def mixed(root: Path, *sizes: tuple[int, int]) -> Path:
    for number, (height, width) in enumerate(sizes):
        save(root / f"train/{number}/x.png", noise(number, height, width))
        save(root / f"test/{number}/x.png", noise(number, height, width))
    return root


def images(pixels: torch.Tensor, labels: list[int], prefix: str) -> Images:
    count, _, height, width = pixels.shape
    sizes = torch.tensor([[height, width]] * count, dtype=torch.int32).reshape(count, 2)
    return Images(pixels, sizes, torch.tensor(labels), tuple(f"{prefix}/{i}" for i in range(count)))


def made(train: Images, test: Images, classes: tuple[str, ...] = ("a", "b")) -> DataSet:
    return DataSet("made", classes, train, test, fingerprint_of(classes, train, test), ())


def distinct(seed: int, count: int, side: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def leaky() -> DataSet:
    train, test = distinct(2, 12), distinct(3, 4)
    test[1] = train[5]
    train[7] = train[6]
    return made(images(train, [0, 1] * 6, "train"), images(test, [0, 1] * 2, "test"))


def noisy_pictures(root: Path) -> Path:
    """ROOT/{train,test}/{a,b}/N.png: five and two images of noise of each class, all different."""
    for split, start, count in (("train", 0, 5), ("test", 100, 2)):
        for place, name in enumerate("ab"):
            for number in range(count):
                save(root / split / name / f"{number}.png", noise(start + 10 * place + number))
    return root


def printed(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    assert run(["check", *words]) == code
    out, err = capsys.readouterr()
    return out, err


def only(found: tuple[str, ...]) -> str:
    (sentence,) = found
    return sentence


def smears(root: Path, *, split: str = "") -> Path:
    """ROOT/[SPLIT/]CLASS/SMEAR_N.png: ten smears of two images of each of two classes."""
    for place, name in enumerate("ab"):
        for smear in range(10):
            for number in range(2):
                path = root / split / name / f"{smear:03d}_{number}.png"
                save(path, noise(1000 * place + 10 * smear + number))
    return root
