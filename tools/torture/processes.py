"""Something happens to one of two processes: all end, with the documented code, and the same command goes on."""

import time
from pathlib import Path

from tools.torture.arena import Arena, newest
from tools.torture.parts import Trials, expect, part
from tools.torture.students import FACTORY, FAULT, MARK

ENDS = {
    "nan": (4, "classification"),
    "memory": (2, "a process ran out of memory; with several of them one cannot repeat a step"),
    "kill": (1, "the same command again"),
}
"""What happens, the exit code, and a part of what is said."""

_WITHIN = 60.0


@part(
    "one-of-two",
    "R7",
    "NaN, no memory or a kill in one of two: all end with the right code, nobody hangs, it resumes",
    6,
)
def one_of_two(arena: Arena, trials: Trials) -> None:
    while trials.left():
        what, rank = list(ENDS)[trials.made % 3], (1 + trials.made // 3) % 2
        strike(arena, trials, what, rank)


def strike(arena: Arena, trials: Trials, what: str, rank: int, *, out: Path | None = None, resume: bool = True) -> None:
    """One trial: the fault in the process of a rank, at its 80th step; in a new folder, if no other is given."""
    student = ["--student", FACTORY]
    code, words = ENDS[what]
    with trials.one(f"{what} in process {rank}"):
        out = out or arena.new("struck")
        started = arena.start(out, processes=2, student=student, **{FAULT: f"{what}:{rank}:80"})
        started.wait_for(lambda: MARK.decode() in started.said())
        expect(newest(out) > 0, f"no save came: {started.said()}")
        struck = time.monotonic()
        found = started.end(_WITHIN)
        trials.seen[f"{what} in process {rank} -> {found} in {time.monotonic() - struck:.0f} s"] += 1
        expect(found == code, f"code {found}, expected {code}: {started.said()}")
        expect(words in started.said(), f"it said {started.said()!r}")
        expect(started.said().count("lgkd: ") == 1, f"it said {started.said()!r}")
        if resume:
            done = arena.start(out, processes=2, student=student)
            expect(done.end() == 0, f"it did not go on: {done.said()}")
