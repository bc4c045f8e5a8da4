"""A desk whose files a test may spoil, and programs that leave a trace if they are run."""

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lgkd.models import trust
from tests.support.manifests import reseal
from tests.support.small import World


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the store, the pictures and a run, so that a test may spoil them."""
    shutil.copytree(world.home, tmp_path / "home")
    shutil.copytree(world.pictures, tmp_path / "pictures")
    shutil.copytree(world.guided_run, tmp_path / "mine")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(trust, "_TRUSTED", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    rewrite(tmp_path / "mine" / "run.json", lambda about: about["dataset"].update(path=str(tmp_path / "pictures")))
    return tmp_path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that exists once something of a stranger's was run; it must not at the end of a test."""
    place = tmp_path / "canary"
    yield place
    assert not place.exists()


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    reseal(path.parent)


class Payload:
    """Opens, when it is unpickled, a file for writing."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def payloads(canary: Path) -> dict[str, bytes]:
    """Pickles that would run something, as Python, torch and numpy write them; each is shown to work."""
    saved, array = io.BytesIO(), io.BytesIO()
    torch.save({"weight": Payload(canary)}, saved)
    np.save(array, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    made = {"pickle": pickle.dumps(Payload(canary)), "torch": saved.getvalue(), "numpy": array.getvalue()}
    reads = {
        "pickle": pickle.loads,
        "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
        "numpy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    }
    for kind, data in made.items():
        reads[kind](data)
        canary.unlink()
    return made
