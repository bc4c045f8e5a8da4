"""The golden losses, made again: a draw of students and terms, against the numbers that are kept."""

import json

import torch

from tools.golden.losses import FOLDER, STEPS, losses
from tools.torture.arena import Arena
from tools.torture.parts import Trials, expect, part

FIRST, ALL = 1e-5, 2e-4
"""How far the first loss may be off, and all of them, in single precision; as shares.

The kept ones were made on another processor with another torch, and rounding grows from step to step: between torch
2.15 on an Intel Xeon and 2.14 on an AMD EPYC the first losses are up to 6e-6 apart, and all of them up to 5e-5.
"""

DOUBLE, ANGLES = 1e-6, 3e-6
"""How far any of them may be off in double precision, and those of RKD, whose angles enlarge the images' rounding."""


@part(
    "golden",
    "R15",
    "thirty losses of a student with a term: exact when made again; near the kept ones, in double precision to 1e-6",
    32,
)
def golden(arena: Arena, trials: Trials) -> None:
    kept = {
        (name, double): values
        for double, file in ((False, "losses.json"), (True, "losses_in_double.json"))
        for name, values in json.loads((FOLDER / file).read_text())["values"].items()
    }
    names = trials.draw.sample(list(kept), len(kept))
    while trials.left():
        name, double = names[trials.made % len(names)]
        with trials.one(f"{name}{' in double' if double else ''}"):
            student, term = name.split(" ")
            threads = torch.get_num_threads()
            try:
                made, again = (losses(student, term, double=double) for _ in range(2))
            finally:
                torch.set_num_threads(threads)
            expect(made == again, "made again, they differ")
            expect(len(made) == len(kept[name, double]) == STEPS, f"{len(made)} losses")
            apart = [abs(mine - its) / abs(its) for mine, its in zip(made, kept[name, double], strict=True)]
            precision = "double" if double else "single"
            trials.seen[f"{precision}: {f'{max(apart):.0e} apart' if any(apart) else 'exact'}"] += 1
            bar = (ANGLES if term == "rkd" else DOUBLE) if double else ALL
            expect(apart[0] <= min(FIRST, bar), f"the first loss is {apart[0]:.1e} apart")
            expect(max(apart) <= bar, f"a loss is {max(apart):.1e} apart")
