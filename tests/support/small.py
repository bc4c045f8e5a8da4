"""A folder of generated pictures, and one teacher and one student trained on them in seconds."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd.cli import run
from lgkd.training import loop
from lgkd.training.signals import StopCondition
from tests import CHECKOUT

CLASSES = ("checks", "columns", "rows")
QUICK = ["--epochs", "2", "--batch-size", "8", "--precision", "fp32", "--device", "cpu"]
TINY = ["--image-size", "16"] + [
    word
    for option in ("patch_size=4", "depth=3", "embed_dim=32", "num_heads=2")
    for word in ("--student-option", option)
]
TINY_OPTIONS = {"patch_size": 4, "depth": 3, "embed_dim": 32, "num_heads": 2}
DISTILL = ["distill", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, *QUICK, "--quiet"]
TRAIN = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--quiet"]


def make_pictures(folder: Path, classes: tuple[str, ...] = CLASSES, *, train: int = 8, test: int = 4) -> Path:
    """FOLDER/train/CLASS/N.png and FOLDER/test/CLASS/N.png: 12 x 12 stripes and checks in random colours."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:12, :12] // 2
    masks = {"rows": rows % 2, "columns": columns % 2, "checks": (rows + columns) % 2}
    for split, count in (("train", train), ("test", test)):
        for place, name in enumerate(classes):
            mask = masks.get(name, (rows + place * columns) % 3 == 0)[..., None]
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                light, dark = draw.integers(128, 256, 3), draw.integers(0, 128, 3)
                Image.fromarray(np.where(mask, light, dark).astype(np.uint8)).save(
                    folder / split / name / f"{number}.png"
                )
    return folder


@dataclass(frozen=True)
class World:
    """What was made once for a test file; nothing in it is changed."""

    home: Path
    pictures: Path
    teacher_run: Path
    guided_run: Path
    unguided_run: Path


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_MADE: list[World] = []


def the_world(factory: pytest.TempPathFactory) -> World:
    """The world, made by the first test file that asks for it."""
    if not _MADE:
        _MADE.append(make_world(factory.mktemp("world")))
    return _MADE[0]


def make_world(root: Path) -> World:
    """Pictures, a teacher, a guided and an unguided student, each trained through the command line."""
    world = World(root / "home", make_pictures(root / "pictures"), root / "teacher", root / "guided", root / "unguided")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        patch.setenv("HF_TOKEN", "hf_not_to_be_written_down")
        data = ["--dataset", str(world.pictures)]
        teach = ["train-teacher", "resnet8", str(world.pictures), *QUICK, "--image-size", "16", "--quiet"]
        assert run([*teach, "--out", str(world.teacher_run)]) == 0
        assert run([*DISTILL, *data, "--out", str(world.guided_run)]) == 0
        assert run([*TRAIN, *data, "--out", str(world.unguided_run)]) == 0
    return world


def pause_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next training be paused after so many looks at the clock."""
    real, left = StopCondition.reason, [steps]

    def reason(self: StopCondition):
        left[0] -= 1
        return real(StopCondition(0.0)) if left[0] <= 0 else None

    monkeypatch.setattr(loop.StopCondition, "reason", reason)


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file below the folders and a hash of its content; what is decoded images' cache does not count."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if "cache" not in path.parts
    }


def everything_below(*folders: Path) -> list[tuple[str, int]]:
    """Every file below the folders with the time of its last change, and every folder, caches among them.

    A folder's own time is left out: a lock file that came and went changes it.
    """
    return [
        (str(path), 0 if path.is_dir() else path.lstat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
    ]


def environment(home: Path) -> dict[str, str]:
    """For subprocesses: one thread, the given store, wide lines, this checkout."""
    checkout = str(CHECKOUT)
    return {**os.environ, "LGKD_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": checkout}


def python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
