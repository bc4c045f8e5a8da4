"""Ten thousand steps of a tiny guided training: what the process holds in memory and in open files.

    python -m tools.soak [STEPS]

Prints resident memory and open files every thousand steps, and how far both grew after the first two thousand.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from lgkd.config import Schedule
from lgkd.training.callbacks import EpochRow
from tests.support.training import STEPS, train

WARM = 2_000


def held() -> tuple[float, int]:
    """Resident memory in MiB and the number of open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len([*Path("/proc/self/fd").iterdir()])


class Looker:
    """A watcher that looks every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: dict[int, tuple[float, int]] = {}

    def on_start(self, epochs: int, steps_per_epoch: int) -> None: ...

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None: ...

    def on_epoch(self, row: EpochRow) -> None:
        steps = row.epoch * STEPS
        if steps % self.every == 0:
            self.seen[steps] = held()
            print(f"{steps:6,} steps: {self.seen[steps][0]:7.1f} MiB, {self.seen[steps][1]} open files", flush=True)


def soak(steps: int, warm: int = WARM, every: int = 1_000) -> tuple[float, int]:
    """Train for so many steps; by how many MiB and open files the process grew after the first `warm`."""
    looker = Looker(every)
    with TemporaryDirectory() as folder:
        train(
            Path(folder),
            every=2.0,
            watchers=(looker,),
            schedule=Schedule(steps // STEPS, warmup_epochs=1, stepped="step"),
        )
    first, last = looker.seen[warm], looker.seen[max(looker.seen)]
    return last[0] - first[0], last[1] - first[1]


def main(steps: int) -> None:
    memory, files = soak(steps)
    print(f"after {WARM:,} steps: {memory:+.1f} MiB, {files:+d} open files")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
