"""What must not matter: how many processes, that it is done again, being looked at, another who wants the folder."""

import os
import subprocess
import sys

import torch

from tools.torture.arena import CHECKOUT, Arena, expect_same, newest, outcome
from tools.torture.parts import Trials, expect, part

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
CASES = [
    ("sgd",),
    ("adamw", "batch=7"),
    ("sgd", "batch=7", "accumulate=2", "norm=none"),
    ("adamw", "transform=similarity", "teacher_bn=batch"),
    ("adamw", "accumulate=2", "norm=none"),
]


@part("one-and-two", "R13", "two processes end within 1e-5 of one, metrics exact; accumulation, odd batches", 3)
def one_and_two(arena: Arena, trials: Trials) -> None:
    cases = trials.draw.sample(CASES, len(CASES))
    while trials.left():
        words = cases[trials.made % len(cases)]
        with trials.one(" ".join(words)):
            place = arena.new("equal")
            made = []
            for name, start in (("one", []), ("two", TWO)):
                (place / name).mkdir(parents=True)
                done = subprocess.run(
                    [sys.executable, *start, str(CHECKOUT / "tests/support/processes.py"), str(place / name), *words],
                    env=os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                )
                expect(done.returncode == 0, done.stderr[-600:])
                made.append(torch.load(place / name / "0.pt", weights_only=True))
            one, two = made
            furthest = max(
                float((one["weights"][name] - two["weights"][name]).abs().max() / value.abs().max().clamp(min=1e-12))
                for name, value in one["weights"].items()
            )
            trials.seen[f"{' '.join(words)}: {furthest:.1e} apart"] += 1
            expect(furthest < 1e-5, f"{furthest:.2e} apart")
            expect(one["counts"] == two["counts"], "the evaluation counted otherwise")


@part("again", "R16", "the same command again gives the same bits: in one process, in two, with two threads", 3)
def again(arena: Arena, trials: Trials) -> None:
    while trials.left():
        processes, threads = [(1, 1), (2, 1), (1, 2)][trials.made % 3]
        with trials.one(f"{processes} processes, {threads} threads"):
            wanted = arena.reference(processes, threads)
            found = arena.finish(arena.new("again"), processes=processes, OMP_NUM_THREADS=str(threads))
            expect_same(found, wanted, "the first time")


@part("looked-at", "R17", "evaluated every epoch or once at the end: the same weights, average and moments", 2)
def looked_at(arena: Arena, trials: Trials) -> None:
    wanted = _without_metrics(arena.reference())
    while trials.left():
        often = ("1", "1000")[trials.made % 2]
        with trials.one(f"evaluate_every={often}"):
            found = arena.finish(arena.new("looked-at"), "--set", f"evaluate_every={often}")
            trials.seen[f"every {often}"] += 1
            expect_same(_without_metrics(found), wanted)


def _without_metrics(outcome: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in outcome.items() if not name.startswith("metrics")}


@part(
    "two-runs",
    "R18",
    "two in one folder: one is sent away with 5, the other's end is to the bit; a dead one's is free",
    4,
)
def two_runs(arena: Arena, trials: Trials) -> None:
    wanted = arena.reference()
    while trials.left():
        out = arena.new("shared")
        kind = ("at once", "later", "after the first one's death", "soon")[trials.made % 4]
        with trials.one(kind):
            first = arena.start(out)
            if kind in ("later", "after the first one's death"):
                first.wait_for(lambda out=out: newest(out) > 0)
            elif kind == "soon":
                first.wait_for(lambda: False, trials.draw.uniform(0, 3))
            if kind == "after the first one's death":
                first.kill_all()
                expect_same(arena.finish(out), wanted)
                trials.seen["free after a death"] += 1
                continue
            second = arena.start(out)
            codes = sorted((first.end(), second.end()))
            trials.seen[f"codes {codes[0]} and {codes[1]}"] += 1
            expect(codes == [0, 5], f"codes {codes}: {first.said()} {second.said()}")
            expect_same(outcome(out), wanted)
