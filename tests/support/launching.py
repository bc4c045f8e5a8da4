"""Trainings in several processes: torchrun runs in a process of the nursery, what it starts are new interpreters."""

from pathlib import Path

from tests import CHECKOUT
from tests.support.forking import Forked, Nursery
from tests.support.small import DISTILL, World


def lgkd(nursery: Nursery, world: World, tmp_path: Path, *words: str) -> Forked:
    """Begin a command of lgkd."""
    return nursery.start(["-m", "lgkd", *words], at=tmp_path, LGKD_HOME=str(world.home), PYTHONPATH=str(CHECKOUT))


def torchrun(nursery: Nursery, processes: int, script: Path, *words: str) -> Forked:
    """Begin a script in so many processes."""
    started = ["-c", "from torch.distributed.run import main; main()", "--standalone", f"--nproc_per_node={processes}"]
    return nursery.start([*started, str(script), *words], PYTHONPATH=str(CHECKOUT), OMP_NUM_THREADS="1")


def guided(world: World, *more: str) -> list[str]:
    still = ["--student-option", "drop_path_rate=0.0", "--precision", "fp32", "--set", "clip_norm=1.0"]
    return [*DISTILL, "--dataset", str(world.pictures), "--out", "mine", *still, *more]
