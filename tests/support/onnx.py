"""Students as ONNX, compared with themselves on real images; and the tables of docs/export.md.

python -m tests.support.onnx [NAME ...]   compares, prints a row for each, and writes the page if no names are given
"""

import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.data.decode import decode
from lgkd.data.transforms.augment import Plain
from lgkd.deploy import formats
from lgkd.deploy.subject import Subject
from lgkd.errors import ModelError
from lgkd.models.factory import create_model
from lgkd.models.registry import MODELS, names
from tests import CHECKOUT
from tools.models_page import FAMILIES, HUGGING_FACE, Elsewhere

ROOT = CHECKOUT
PAGE = ROOT / "docs" / "export.md"
CIFAR = ROOT.parent / "shared" / "data" / "cifar100" / "test.zip"
"""Where the test split of CIFAR-100 lies where it is at hand: test/CLASS/NAME.png."""

COUNT = 100
BATCHES = (1, 7)
CLASSES = 100


def cifar_images(folder: Path) -> list[Path]:
    """100 images of CIFAR-100's test split, one a class, put into a folder; none where they are not at hand."""
    if not CIFAR.is_file():
        return []
    with zipfile.ZipFile(CIFAR) as archive:
        members = sorted(name for name in archive.namelist() if name.endswith(".png"))
        by_class = [list(files) for _, files in groupby(members, lambda name: name.split("/")[-2])]
        assert len(by_class) == COUNT
        for number, files in enumerate(by_class):
            (folder / f"{number:03}.png").write_bytes(archive.read(files[number]))
    return sorted(folder.glob("*.png"))


def shown(files: list[Path], size: int) -> Tensor:
    """The files as a student of that size takes them in evaluation."""
    pixels, sizes = decode(Path("/"), [str(file)[1:] for file in files])
    plain = Plain(size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return plain(torch.from_numpy(pixels), torch.from_numpy(sizes))


def subject_of(model: nn.Module, name: str, size: int, classes: int = CLASSES) -> Subject:
    """A model as if a run had trained it."""
    about = {
        "format": 1,
        "name": name,
        "options": {},
        "num_classes": classes,
        "image_size": [size, size],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "longest_side": size,
        "classes": [str(place) for place in range(classes)],
        "weights_sha256": "",
    }
    return Subject(Path(), {}, about, model.eval())


@dataclass(frozen=True)
class Agreement:
    """How far ONNX Runtime is from a student.

    Attributes:
        difference: the largest of a logit, over all images and numbers of images at once.
        largest_logit: the student's, without its sign.
        same_class: of so many images the first class is the same.
        images: how many there were.
    """

    difference: float
    largest_logit: float
    same_class: int
    images: int


def agreement(name: str, size: int, options: Mapping[str, Any], files: list[Path]) -> Agreement:
    """Make a student, write it as ONNX as `lgkd export` does, and compare.

    Raises:
        ModelError: it cannot be written.
    """
    torch.manual_seed(5)
    model = lively(create_model(name, num_classes=CLASSES, image_size=size, options=options))
    images = shown(files, size)
    if float(model(images[:20]).detach().abs().max()) < 1e-10:
        settle(model, images[:20])
    subject = subject_of(model, name, size)
    student = formats.as_onnx(subject, formats.follow(subject)).logits
    with torch.no_grad():
        expected = torch.cat([model(some) for some in images.split(20)])
    found = [torch.cat([student(some) for some in images.split(batch)]) for batch in BATCHES]
    return Agreement(
        max(float((logits - expected).abs().max()) for logits in found),
        float(expected.abs().max()),
        min(int((logits.argmax(1) == expected.argmax(1)).sum()) for logits in found),
        len(images),
    )


def lively(model: nn.Module) -> nn.Module:
    """Heads and gates that begin at nothing would agree whatever they are given: they are drawn, or opened."""
    for parameter in model.parameters():
        if not parameter.any() and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif parameter.ndim == 1 and 0 < float(parameter.detach().abs().max()) < 0.01:
            nn.init.constant_(parameter, 0.5)
    return model.eval()


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of these images, as training would, where signals die away without them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.train()
    model(images)
    model.eval()


def students() -> list[Elsewhere]:
    """All students that lgkd knows by name, at their own size."""
    return [Elsewhere(MODELS[name].title, name, MODELS[name].image_size) for name in names("student")]


UNEXPORTABLE: dict[str, str] = {}
"""Families that torch's exporter cannot follow for any number of images, each with the reason."""


def row(entry: Elsewhere, files: list[Path]) -> str:
    name = f"`{entry.name}`" + (f" ({entry.options['model_type']})" if entry.name == HUGGING_FACE else "")
    try:
        found = agreement(entry.name, entry.size, entry.options, files)
    except ModelError as error:
        why = UNEXPORTABLE.get(entry.family, str(error)[:200])
        return f"| {entry.family} | {name} | {entry.size} | cannot be exported: {why} | | |"
    return (
        f"| {entry.family} | {name} | {entry.size} | {found.difference:.1e} | {found.largest_logit:.2g} | "
        f"{found.same_class} of {found.images} |"
    )


def write(text: str, part: str, rows: list[str]) -> str:
    table = "\n".join(
        ["| model | `--student` | px | largest difference | largest logit | same class |",
         "| --- | --- | ---: | ---: | ---: | ---: |", *rows]
    )  # fmt: skip
    return re.sub(
        rf"(<!-- {part} -->\n).*?(<!-- end of {part} -->)",
        lambda found: f"{found[1]}{table}\n{found[2]}",
        text,
        flags=re.S,
    )


def rows(entries: list[Elsewhere], files: list[Path], tell: Callable[[str], None]) -> list[str]:
    made = []
    for entry in entries:
        began = time.monotonic()
        made.append(row(entry, files))
        tell(f"{made[-1]} {time.monotonic() - began:.0f} s")
    return made


if __name__ == "__main__":
    wanted, files = sys.argv[1:], cifar_images(Path(tempfile.mkdtemp()))
    assert files, "CIFAR-100 is not at hand"
    for part, entries in (("students", students()), ("families", list(FAMILIES))):
        chosen = [entry for entry in entries if not wanted or entry.name in wanted]
        made = rows(chosen, files, lambda line: print(line, flush=True))
        if not wanted:
            PAGE.write_text(write(PAGE.read_text(encoding="utf-8"), part, made), encoding="utf-8")
