"""Ten thousand steps in a process of its own: it holds no more memory and no more files at the end."""

import os
import re
import subprocess
import sys

from tools.torture.arena import CHECKOUT, Arena
from tools.torture.parts import Trials, expect, part

STEPS = 10_000
MOST_GROWTH = 20.0
"""MiB of resident memory after the first two thousand steps."""


@part("soak", "R22", f"{STEPS:,} steps: less than {MOST_GROWTH:.0f} MiB more memory, as many open files", 1)
def soak(arena: Arena, trials: Trials) -> None:
    while trials.left():
        with trials.one(f"{STEPS} steps"):
            done = subprocess.run(
                [sys.executable, "-m", "tools.soak", str(STEPS)],
                cwd=CHECKOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            expect(done.returncode == 0, done.stderr[-600:])
            found = re.search(r"steps: ([+-][\d.]+) MiB, ([+-]\d+) open files\n$", done.stdout)
            assert found is not None, done.stdout
            trials.seen[f"{found[1]} MiB, {found[2]} files"] += 1
            expect(float(found[1]) < MOST_GROWTH, f"{found[1]} MiB: {done.stdout}")
            expect(int(found[2]) == 0, f"{found[2]} open files: {done.stdout}")
