"""Kills in the first second of every command that makes a folder, and at each of its changes of the disk."""

import itertools
import json
import time
from contextlib import closing

from lgkd.cli import app
from lgkd.experiments.catalogue import EXPERIMENTS
from tests.support.beginnings import COMMANDS, Place
from tests.support.forking import Forked, Nursery
from tests.support.reproducing import TINY
from tools.torture.arena import PATIENCE, Arena
from tools.torture.inside import command, expect_words
from tools.torture.parts import Trials, expect, part

CLI = sorted({f"lgkd.cli.{module}" for module, _ in app.COMMANDS.values()})
IMPORTS = ("lgkd.api", *CLI, "lgkd.experiments.quickstart", "lgkd.analysis.inspect.inspect")
FIRST_SECOND = 1.0
_BY_CHANGE = 0.6
"""Share of the kills that fall ahead of a change of the disk; the others fall by the clock."""


@part("beginnings", "R1", "killed in its first second, the same command succeeds; nothing left, no ghost teacher", 200)
def beginnings(arena: Arena, trials: Trials) -> None:
    EXPERIMENTS["tiny"] = TINY
    changes: dict[str, int] = {}
    names = itertools.cycle(COMMANDS)
    with closing(Nursery(*IMPORTS)) as nursery:
        while trials.left():
            name = next(names)
            place = Place.make(name, arena.new("begun"), arena.world)
            with trials.one(f"{name} in {place.root.name}"):
                if name not in changes:
                    changes[name] = _count(nursery, Place.make(name, arena.new("counted"), arena.world))
                by_change = trials.draw.random() < _BY_CHANGE
                if by_change:
                    dead = _die_at(nursery, place, trials.draw.randint(1, changes[name]))
                else:
                    dead = _die_within(nursery, place, trials.draw.uniform(0, FIRST_SECOND))
                trials.seen[name] += 1
                trials.seen["(before a change)" if by_change else "(by the clock)"] += 1
                if not dead:
                    trials.seen["(ended before it was killed)"] += 1
                _judge(place, trials)


def _start(nursery: Nursery, place: Place, last: int) -> Forked:
    words = ["-m", "tests.support.dying", str(last), *place.dying]
    return nursery.start(words, at=place.root, LGKD_HOME=str(place.home), LGKD_OFFLINE="1", OMP_NUM_THREADS="1")


def _count(nursery: Nursery, place: Place) -> int:
    """How many changes of the disk the command makes, undisturbed."""
    started = _start(nursery, place, 0)
    _, said = started.communicate(PATIENCE)
    expect(started.poll() == 0, f"undisturbed, it ended with {started.poll()}: {said[-600:]}")
    return int(said.rstrip().rpartition("\n")[2].split()[0])


def _die_at(nursery: Nursery, place: Place, change: int) -> bool:
    started = _start(nursery, place, change)
    started.communicate(PATIENCE)
    return started.poll() == -9


def _die_within(nursery: Nursery, place: Place, seconds: float) -> bool:
    """Kill a command so long after its folder, or a hidden one beside it, has come to be."""
    before = _beside(place)
    started = _start(nursery, place, 0)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and started.poll() is None and _beside(place) == before:
        time.sleep(0.002)
    time.sleep(seconds)
    started.send_signal(9)
    started.communicate(PATIENCE)
    return started.poll() == -9


def _beside(place: Place) -> set[str]:
    return {path.name for path in (*place.root.iterdir(), *place.home.glob("teachers/*/.*"))}


def _judge(place: Place, trials: Trials) -> None:
    """The store lists teachers and no ghosts, the same command succeeds, and nothing is left over."""
    where = {"LGKD_HOME": str(place.home)}
    trials.seen["(left something behind)"] += bool(place.left())
    _expect_teachers(place, before=True)
    done = place.is_done()
    trials.seen["(at its end already)"] += done
    again = command(place.words, at=place.root, **where)
    if done and place.name != "train-teacher":
        # Whatever is finished is never written over; that it says in one line.
        expect_words(again.code, again.said, [2], "already holds")
    elif done:
        expect_words(again.code, again.said, [2], "already in the store")
    else:
        expect_words(again.code, again.said, [0])
    expect(not place.left(), f"left behind: {place.left()}")
    _expect_teachers(place, before=False)
    if place.name in ("train", "distill", "train-teacher", "train-teacher --replace"):
        info = json.loads((place.out / "run.json").read_text())
        expect(info["status"] == "finished", f"run.json says {info['status']}")


def _expect_teachers(place: Place, *, before: bool) -> None:
    """What the store lists after a kill, and after the same command again."""
    listed = command(["teachers", "--json"], LGKD_HOME=str(place.home))
    expect(listed.code == 0, listed.said)
    expect("cannot be read" not in listed.said and "/." not in listed.out, f"a ghost: {listed.out} {listed.said}")
    stored = sorted(path.parent.name for path in (place.home / "teachers").glob("*/*/card.json"))
    if place.name == "train-teacher" and before:
        expect(set(stored) <= {"resnet8"} or all(name.startswith(".") for name in stored), f"the store has {stored}")
    elif before:
        # Looked at, a teacher that was moved aside is back.
        expect("resnet8" in stored, f"the store has {stored}")
    else:
        expect(stored == ["resnet8"], f"the store has {stored}")
