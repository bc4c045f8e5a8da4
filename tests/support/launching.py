"""Commands of lgkd in new interpreters, for trainings in several processes."""

import subprocess
import sys
from pathlib import Path

from tests.support.forking import torch_environment
from tests.support.small import DISTILL, World, environment


def lgkd(world: World, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lgkd", *words],
        cwd=tmp_path,
        env=torch_environment() | environment(world.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def guided(world: World, *more: str) -> list[str]:
    still = ["--student-option", "drop_path_rate=0.0", "--precision", "fp32", "--set", "clip_norm=1.0"]
    return [*DISTILL, "--dataset", str(world.pictures), "--out", "mine", *still, *more]
