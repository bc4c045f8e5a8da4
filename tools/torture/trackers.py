"""Trackers that fail, exit, hang, chatter or are killed: the run does not notice, and each epoch is told once."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lgkd._internal.launch import STUCK
from lgkd.runs.folder import read_metrics
from lgkd.training.tracking import PATIENCE_VARIABLE
from tests.support.costs import is_cost
from tests.support.small import DISTILL, TRAIN, environment
from tools.torture.arena import Arena
from tools.torture.inside import command, expect_words
from tools.torture.parts import Trials, expect, part

EPOCHS = 4
PATIENCE = 3
"""Seconds after which a tracker counts as hanging, long enough for a busy disk."""
TOLD, FAULT = "FAKE_TRACKER_TOLD", "FAKE_TRACKER_FAULT"
PLACES = ("import", "init", "config", *(f"log{epoch}" for epoch in range(1, EPOCHS + 1)), "finish")
WAYS = ("ValueError", "ConnectionError", "OSError", "MemoryError", "SystemExit", "KeyboardInterrupt", "hang")
KINDS = ("fails", "nothing fails", "paused", "killed", "never lets go", "two processes")

# What stands in for wandb, behind Accelerate's own class for it. The second one, for trackio, never fails.
FAKE = f'''
import json, os, signal, threading, time

def _do(where, **told):
    with open(os.environ["{TOLD}"] + "." + __name__, "a") as file:
        file.write(json.dumps({{"where": where, "rank": os.environ.get("RANK", "0"), **told}}) + "\\n")
    print("a tracker that talks")
    wanted, _, how = os.environ.get("{FAULT}", "").partition(":")
    if wanted != where or __name__ == "trackio":
        return
    if how == "hang":
        time.sleep(20)
    elif how == "holds":
        threading.Thread(target=time.sleep, args=(600,)).start()
        time.sleep(600)
    elif how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    else:
        raise {{"ValueError": ValueError, "ConnectionError": ConnectionError, "OSError": OSError,
               "MemoryError": MemoryError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}}[how](
            "no\\nnetwork")

class _Config:
    def update(self, values, **_):
        _do("config", values=values)

class _Run:
    id = name = "the-run"
    def log(self, values, step):
        _do(f"log{{step}}", values=values)
    def finish(self):
        _do("finish")

def init(project, **options):
    _do("init", project=project, options=options)
    return _Run()

config = _Config()
_do("import")
'''


@part(
    "trackers", "R21", "the run ends with 0 and to the bit as without trackers, one sentence, each epoch told once", 60
)
def trackers(arena: Arena, trials: Trials) -> None:
    fakes = arena.new("fakes")
    fakes.mkdir()
    for name in ("wandb", "trackio"):
        (fakes / f"{name}.py").write_text(FAKE)
    undisturbed: dict[bool, Path] = {}
    while trials.left():
        kind = KINDS[trials.draw.choices(range(len(KINDS)), (24, 2, 3, 2, 1, 1))[0]]
        if trials.made < len(KINDS):
            kind = KINDS[trials.made]
        guided = trials.draw.random() < 0.3
        place, way = trials.draw.choice(PLACES), trials.draw.choice(WAYS)
        if kind == "fails":
            kind = f"{way} at {place.rstrip('1234')}"
        with trials.one(f"{kind}, {place}, {'guided' if guided else 'alone'}"):
            trials.seen[kind] += 1
            if guided not in undisturbed:
                undisturbed[guided] = arena.new("untracked")
                ended = command([*_words(arena, guided), "--out", str(undisturbed[guided])], **_home(arena))
                expect(ended.code == 0, ended.said)
            out = arena.new("tracked")
            told = out.with_name(f"{out.name}-told")
            words = [*_words(arena, guided), "--out", str(out), "--track", "wandb", "--track", "trackio"]
            surroundings = {**_home(arena), TOLD: str(told), "PYTHONPATH": str(fakes), PATIENCE_VARIABLE: str(PATIENCE)}
            lost = 0
            if kind in ("killed", "never lets go", "two processes"):
                lost = _in_a_process(arena, kind, words, surroundings, trials)
            else:
                _in_here(kind, words, surroundings, fakes, f"{place}:{way}", trials)
            _judge_run(out, undisturbed[guided], twins=kind != "two processes")
            _judge_told(told.with_name(told.name + ".trackio"), lost=lost)
            shutil.rmtree(out)


def _words(arena: Arena, guided: bool) -> list[str]:
    words = [word for word in (DISTILL if guided else TRAIN) if word != "--quiet"]
    return [*words, "--dataset", str(arena.world.pictures), "--epochs", str(EPOCHS)]


def _home(arena: Arena) -> dict[str, str]:
    return {"LGKD_HOME": str(arena.world.home)}


def _in_here(kind: str, words: Sequence[str], around: dict[str, str], fakes: Path, fault: str, trials: Trials) -> None:
    """The command in this process; a pause is asked for by a tracker, which is as good a moment as any."""
    if kind == "nothing fails":
        fault = ""
    if kind == "paused":
        fault = f"log{trials.draw.randrange(1, EPOCHS)}:SIGUSR1"
    sys.path.insert(0, str(fakes))
    try:
        for code, faulty in ((75, fault), (0, "")) if kind == "paused" else ((0, fault),):
            for name in ("wandb", "trackio"):
                sys.modules.pop(name, None)
            ended = command(words, **around, **{FAULT: faulty})
            expect_words(ended.code, ended.said, [code])
            sentences = [line for line in ended.said.splitlines() if "the tracker " in line]
            wanted = int(bool(fault) and kind != "paused")
            expect(len(sentences) == wanted, f"{len(sentences)} sentences, expected {wanted}: {ended.said[-600:]}")
            expect(all("wandb" in line and "wandb login" in line for line in sentences), f"it says {sentences}")
            expect("talks" not in ended.out, f"a tracker speaks among the results: {ended.out[-300:]}")
            expect(ended.seconds < 60, f"it took {ended.seconds:.0f} s")
    finally:
        sys.path.remove(str(fakes))
        STUCK.clear()


def _in_a_process(arena: Arena, kind: str, words: Sequence[str], around: dict[str, str], trials: Trials) -> int:
    """The command in a process of its own, which is killed, held by a tracker, or one of two."""
    paths = os.pathsep.join((around["PYTHONPATH"], environment(arena.world.home)["PYTHONPATH"]))
    around = {**around, "PYTHONPATH": paths}
    if kind == "two processes":
        started = arena.start_words([*words, "--nproc", "2"], **around)
        code = started.end()
        expect_words(code, started.said(), [0])
        # timm imports wandb where it is, in every process.
        ranks = {line["rank"] for line in _lines(Path(around[TOLD] + ".wandb")) if line["where"] != "import"}
        expect(ranks == {"0"}, f"the trackers were told by processes {sorted(ranks)}")
        return 0
    place = trials.draw.choice(PLACES[3:] if kind == "killed" else PLACES[1:])
    started = arena.start_words(words, **around, **{FAULT: f"{place}:{'SIGKILL' if kind == 'killed' else 'holds'}"})
    code = started.end()
    if kind == "never lets go":
        expect_words(code, started.said(), [0])
        expect(started.said().count(f"the tracker wandb has not answered for {PATIENCE} s") == 1, started.said()[-600:])
        return 0
    expect(code == -signal.SIGKILL, f"code {code}: {started.said()[-300:]}")
    again = arena.start_words(words, **around)
    expect_words(again.end(), again.said(), [0])
    # Nothing is told twice; what was about to be told when the end came is not told at all.
    return 1


def _judge_run(out: Path, wanted: Path, *, twins: bool) -> None:
    """Everything but times is as in the run without trackers; two processes add in another order."""
    mine, its = read_metrics(out), read_metrics(wanted)
    expect(len(mine) == EPOCHS, f"{len(mine)} rows in metrics.csv")
    if not twins:
        return
    for row, other in zip(mine, its, strict=True):
        differing = [key for key in other if row.get(key) != other[key] and not is_cost(key)]
        expect(not differing, f"other {differing} in epoch {other['epoch']}")
    same = (out / "student.safetensors").read_bytes() == (wanted / "student.safetensors").read_bytes()
    expect(same, "other weights than without trackers")


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _judge_told(file: Path, *, lost: int) -> None:
    """The tracker that never fails was told of every epoch, once and in order, whatever the other one did."""
    epochs = [int(line["where"][3:]) for line in _lines(file) if line["where"].startswith("log")]
    expect(epochs == sorted(set(epochs)), f"it was told of epochs {epochs}")
    expect(len(epochs) >= EPOCHS - lost, f"it was told of epochs {epochs} only")
    about = [line for line in _lines(file) if line["where"] == "config"]
    expect(len(about) <= 1, f"it was told what the run is {len(about)} times")
