"""Kills: at random moments of one process or two, and at every point of a save."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from lgkd.training.checkpoint import FAULT_VARIABLE, MANIFEST, STATE, load_newest
from tools.torture.arena import EPOCHS, STEPS, Arena, Started, expect_same, newest, outcome
from tools.torture.parts import Trials, expect, part

FILES = [f"{part}.safetensors" for part in ("student", "guide", "optimizer", "meters", "ema")] + [STATE, MANIFEST]
POINTS = [f"{moment}-{name}" for name in FILES for moment in ("written", "synced")]
POINTS += ["before-rename", "after-rename", "before-dropping", "after-dropping"]
_BY_THE_WAY = 0.2
"""Share of the kills that may fall anywhere, and not only after the first new save."""


@part("kills", "R1", "after every SIGKILL the same command goes on; the end is the undisturbed run's to the bit", 20)
def kills(arena: Arena, trials: Trials) -> None:
    _again_and_again(arena, trials, 1)


@part("kills-2", "R1", "the same with --nproc 2: all, the starter or one process killed; nobody is left over", 20)
def kills_of_two(arena: Arena, trials: Trials) -> None:
    _again_and_again(arena, trials, 2)


def _again_and_again(arena: Arena, trials: Trials, processes: int) -> None:
    wanted = arena.reference(processes)
    out = arena.new("killed")
    while trials.left():
        before = newest(out)
        started = arena.start(out, processes=processes)
        begun, wall = time.monotonic(), time.time()
        early = trials.draw.random() < _BY_THE_WAY
        if early:
            started.wait_for(lambda: False, trials.draw.uniform(0, 8 * processes))
        else:
            started.wait_for(lambda out=out, before=before: newest(out) > before)
            started.wait_for(lambda: False, trials.draw.uniform(0, 1.2))
        if started.process.poll() is not None:
            trials.seen["runs ended"] += 1
            with trials.judging(f"end of {out.name}"):
                expect(started.end() == 0, f"it ended by itself: {started.said()[-600:]}")
                expect_same(outcome(out), wanted)
            out = arena.new("killed")
            continue
        who = trials.draw.choice(["all", "starter", "one"]) if processes > 1 else "all"
        with trials.one(f"kill of {who} in {out.name} after {time.monotonic() - begun:.1f} s"):
            _kill(started, who, trials.draw)
            trials.seen[_phase(out, before, wall)] += 1
            if processes > 1:
                trials.seen[f"({who})"] += 1
            found = load_newest(out / "checkpoint")
            expect(found is None or not found.damaged, f"a damaged checkpoint: {found and found.damaged}")
            expect(newest(out) >= before, "a checkpoint was lost")
    trials.seen["runs ended"] += 1
    with trials.judging(f"end of {out.name}"):
        expect_same(arena.finish(out, processes=processes), wanted)


def _kill(started: Started, who: str, draw: random.Random) -> None:
    workers = [number for number, words in started.alive().items() if "RANK" in words]
    if who == "all" or (who == "one" and not workers):
        started.kill_all()
    else:
        with suppress(ProcessLookupError):
            os.kill(draw.choice(sorted(workers)) if who == "one" else started.process.pid, signal.SIGKILL)
        code = started.process.wait(90)
        expect(code != 0 or who == "starter", f"one of two was killed, and the command ended with {code}")
    started.expect_no_orphans()


def _phase(out: Path, before: int, wall: float) -> str:
    """Where in a run that began at a time a kill has fallen, by what it has left."""
    if newest(out) == before:
        info = out / "run.json"
        # It is written when everything has been built, right ahead of the first step.
        return "in the first steps" if info.exists() and info.stat().st_mtime > wall else "at the start"
    if list((out / "checkpoint").glob("*.tmp")):
        return "inside a save"
    return "after the last step" if newest(out) == EPOCHS * STEPS else "in training"


@part("saves", "R2", "dead at every point of a save: a good checkpoint is found, the end is to the bit", len(POINTS))
def saves(arena: Arena, trials: Trials) -> None:
    wanted = arena.reference()
    out = arena.new("saves")
    points = list(POINTS)
    trials.draw.shuffle(points)
    while trials.left():
        point = points[trials.made % len(points)]
        with trials.one(point):
            before = newest(out)
            code = arena.start(out, **{FAULT_VARIABLE: point}).end()
            if code == 0:  # the run had come to its end before a save was due
                expect_same(outcome(out), wanted)
                out = arena.new("saves")
                continue
            expect(code == 70, f"it ended with {code}, not at the point")
            found = load_newest(out / "checkpoint")
            expect(found is None or not found.damaged, f"a damaged checkpoint: {found and found.damaged}")
            # The first save of a run has none before it.
            done = point in ("after-rename", "before-dropping", "after-dropping")
            expect((newest(out) > before) == done, f"after {before} steps it died with {newest(out)} on the disk")
    with trials.judging(f"end of {out.name}"):
        expect_same(arena.finish(out), wanted)
