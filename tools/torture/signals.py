"""Signals: once is saved and left with the right code, twice is now."""

import signal
import time

from lgkd.training.checkpoint import load_newest
from tools.torture.arena import Arena, expect_same, newest, outcome
from tools.torture.parts import Trials, expect, part
from tools.torture.students import FACTORY, FAULT, MARK

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}
STUCK = ["--student", FACTORY]
_ONCE_WITHIN, _TWICE_WITHIN = 20.0, 10.0
_STALLED_STEP = 80


@part("signals", "R3", "TERM, INT, USR1: saved within 20 s, the right code, no orphans, the end to the bit", 12)
def signals(arena: Arena, trials: Trials) -> None:
    outs = {}
    while trials.left():
        number = list(CODES)[trials.made % 3]
        processes = 1 + trials.made // 3 % 2
        wanted = arena.reference(processes)
        out = outs.setdefault(processes, arena.new("signals"))
        with trials.one(f"{number.name} to {processes}"):
            before = newest(out)
            started = arena.start(out, processes=processes)
            started.wait_for(lambda out=out, before=before: newest(out) > before)
            started.wait_for(lambda: False, trials.draw.uniform(0, 0.8))
            if started.process.poll() is not None:
                expect(started.end() == 0, f"it ended by itself: {started.said()[-600:]}")
                expect_same(outcome(out), wanted)
                del outs[processes]
                trials.seen["came too late"] += 1
                continue
            sent = time.monotonic()
            started.process.send_signal(number)
            code = started.end(_ONCE_WITHIN)
            trials.seen[f"{number.name} -> {code}"] += 1
            if code == 0:  # the last step was under way
                expect_same(outcome(out), wanted)
                del outs[processes]
                continue
            expect(code == CODES[number], f"code {code} {time.monotonic() - sent:.1f} s after it: {started.said()}")
            expect("and saved; run the same command again to resume" in started.said(), f"it said {started.said()!r}")
    for processes, out in outs.items():
        with trials.judging(f"end of {out.name}"):
            expect_same(arena.finish(out, processes=processes), arena.reference(processes))


@part("signals-twice", "R3", "a second signal in a step that does not end: gone within 10 s, no orphans, resumes", 4)
def signals_twice(arena: Arena, trials: Trials) -> None:
    while trials.left():
        number = list(CODES)[trials.made % 3]
        processes = 2 if trials.made % 4 == 3 else 1
        out = arena.new("twice")
        with trials.one(f"{number.name} twice to {processes}"):
            fault = {FAULT: f"stall:{processes - 1}:{_STALLED_STEP}"}
            started = arena.start(out, processes=processes, student=STUCK, **fault)
            stalled = started.wait_for(lambda started=started: MARK.decode() in started.said())
            expect(stalled and newest(out) > 0, f"it did not come to that: {started.said()}")
            started.process.send_signal(number)
            time.sleep(1)
            expect(started.process.poll() is None, "it ended in the middle of a step at the first signal")
            started.process.send_signal(number)
            code = started.end(_TWICE_WITHIN)
            trials.seen[f"{number.name} x{processes} -> {code}"] += 1
            expect(code == 128 + number, f"code {code}: {started.said()}")
            found = load_newest(out / "checkpoint")
            expect(found is not None and not found.damaged, "no good checkpoint")
            done = arena.start(out, processes=processes, student=STUCK)
            expect(done.end() == 0, f"it did not go on: {done.said()}")
