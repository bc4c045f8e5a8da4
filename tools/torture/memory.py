"""Memory that runs out: the micro-batch is halved until it fits, the batch and its losses stay."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lgkd.runs.folder import read_metrics
from lgkd.training.checkpoint import load_newest
from tools.torture.arena import Arena
from tools.torture.inside import command, expect_words
from tools.torture.parts import Trials, expect, part
from tools.torture.students import HUNGRY, LARGEST, ROOM, STARVED, TOLD

BATCH, STEPS = 24, 8
"""All the training images of the world at once, so that a row of metrics.csv is a step."""
MOST_TRIES, FURTHEST = 6, 1e-5
_WORDS = ["--student", HUNGRY, "--image-size", "16", "--recipe", "quickstart", "--epochs", str(STEPS)]
_WORDS += ["--batch-size", str(BATCH), "--precision", "fp32", "--device", "cpu", "--quiet"]
_ACROSS = "guide.terms=[{kind: rkd}]"
KINDS = ("it fits in pieces", "paused and gone on with", "it never fits", "a term looks across the batch")
REAL = "the system gives no more"


@part("memory", "R8", "halved in at most 6 tries, losses within 1e-5, going on needs no more; else code 2 in words", 20)
def memory(arena: Arena, trials: Trials) -> None:
    while trials.left():
        if trials.made == len(KINDS) or (trials.made > len(KINDS) and trials.draw.random() < 0.2):
            _starve(arena, trials)
            continue
        kind = KINDS[trials.draw.choices(range(4), (6, 2, 1, 1))[0] if trials.made > len(KINDS) else trials.made]
        largest = 0 if kind == KINDS[2] else trials.draw.randrange(1, BATCH)
        guided = kind == KINDS[3] or trials.draw.random() < 0.7
        begin = trials.draw.choice((1, 1, 2, 3))
        changes = [f"accumulate={begin}", f"optimizer.name={trials.draw.choice(('adamw', 'sgd'))}"]
        if kind == KINDS[3]:
            changes = [_ACROSS]
        with trials.one(f"{kind}: room for {largest} of {BATCH}, {'guided' if guided else 'alone'}, {changes}"):
            trials.seen[kind] += 1
            place = arena.new("memory")
            place.mkdir()
            words = _command(arena, guided, changes)
            if kind == KINDS[1]:
                paused = _limited(arena, place, words, largest, "--max-time", "0")
                expect_words(paused.code, paused.said, [75])
                first = _told(place)
                _judge_tries(first, largest, begin)
                (place / "told").write_text("")
            ended = _limited(arena, place, words, largest)
            if kind in KINDS[2:]:
                wanted = "with a single image a piece" if kind == KINDS[2] else "a term compares the images of a batch"
                expect_words(ended.code, ended.said, [2], "memory ran out", wanted)
                expect(not list((place / "run").glob("checkpoint/*")), "a checkpoint was written")
                continue
            expect_words(ended.code, ended.said, [0])
            told = _told(place)
            if kind == KINDS[1]:
                expect(not told, f"what it had learnt was forgotten: {told} were tried again")
            else:
                _judge_tries(told, largest, begin)
            whole = command([*words, "--out", str(place / "whole")], LGKD_HOME=str(arena.world.home))
            expect(whole.code == 0, whole.said)
            _judge_losses(trials, read_metrics(place / "run"), read_metrics(place / "whole"))
            shutil.rmtree(place)


def _starve(arena: Arena, trials: Trials) -> None:
    """No fault that is made up: the process may not map more than so much."""
    room = trials.draw.randrange(50, 700)
    with trials.one(f"{REAL} than {room} MiB"):
        trials.seen[REAL] += 1
        out = arena.new("starved")
        words = ["train", "--student", STARVED, "--dataset", "digits", "--recipe", "quickstart", "--batch-size", "512"]
        words += ["--set", "view.image_size=32", "--epochs", "1", "--device", "cpu", "--quiet", "--out", str(out)]
        started = arena.start_words(words, **{ROOM: str(room)})
        code = started.end()
        expect_words(code, started.said(), [0, 1, 2], *([] if code == 0 else ["memory"]))
        if code == 0:
            pieces = load_newest(out / "checkpoint").state["progress"]["accumulate"]
            trials.seen[f"in {pieces} pieces"] += 1
        else:
            trials.seen["refused"] += 1


def _command(arena: Arena, guided: bool, changes: Sequence[str]) -> list[str]:
    begin = ["distill", "--teacher", "resnet8"] if guided else ["train"]
    set_to = [word for change in ("evaluate_every=1000", "view.image_size=16", *changes) for word in ("--set", change)]
    return [*begin, *_WORDS, *set_to, "--dataset", str(arena.world.pictures)]


def _limited(arena: Arena, place: Path, words: Sequence[str], largest: int, *more: str):
    """The command, where more than so many images at once are too many."""
    room = {LARGEST: str(largest), TOLD: str(place / "told")}
    return command([*words, "--out", str(place / "run"), *more], LGKD_HOME=str(arena.world.home), **room)


def _told(place: Path) -> list[int]:
    file = place / "told"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def _judge_tries(told: Sequence[int], largest: int, pieces: int) -> None:
    """It ran out once for every size between the first one and one that fits, and never again."""
    sizes = []
    while -(-BATCH // pieces) > largest:
        sizes.append(-(-BATCH // pieces))
        pieces = min(2 * pieces, BATCH)
    expect(list(told) == sizes, f"it tried {list(told)} images at once, expected {sizes}")
    expect(len(told) <= MOST_TRIES, f"{len(told)} tries")


def _judge_losses(trials: Trials, found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    expect(len(found) == len(wanted) == STEPS, f"{len(found)} and {len(wanted)} steps")
    furthest = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        expect(mine.keys() == theirs.keys(), f"other columns: {mine.keys() ^ theirs.keys()}")
        parts = [name for name in mine if name.startswith("loss")]
        furthest = max([furthest, *(abs(mine[name] - theirs[name]) / max(abs(theirs[name]), 1e-12) for name in parts)])
    trials.seen[f"losses {furthest:.0e} apart"] += 1
    expect(furthest <= FURTHEST, f"the losses are {furthest:.2e} apart")
