"""Full disks and damaged checkpoints."""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

from lgkd.errors import InputError
from lgkd.training.checkpoint import load_newest
from tests.support.damage import corruptions
from tools.torture.arena import Arena, expect_same, newest, outcome
from tools.torture.parts import Trials, expect, part

_DISK = 4 << 20


@contextmanager
def small_disk(folder: Path):
    """A file system of 4 MiB at a folder, as root; yields whether there is one."""
    folder.mkdir()
    made = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(folder)], capture_output=True
        ).returncode
        == 0
        if os.geteuid() == 0 and shutil.which("mount")
        else False
    )
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@part("full-disk", "R4", "code 2, one line that says so, older checkpoints whole; with room the end is to the bit", 6)
def full_disk(arena: Arena, trials: Trials) -> None:
    while trials.left():
        place = arena.new("disk")
        with small_disk(place) as mounted, trials.one(place.name):
            (_fill if mounted else _limit)(arena, trials, place / "run")


def _fill(arena: Arena, trials: Trials, out: Path) -> None:
    """Something else fills the disk, at the beginning or at a random moment, and goes away again."""
    filler = out.parent / "filler"
    early = trials.draw.random() < 0.3
    if early:
        filler.write_bytes(bytes(_DISK - trials.draw.randrange(4 << 10, 900 << 10)))
    started = arena.start(out)
    if not early:
        started.wait_for(lambda: newest(out) > 0)
        started.wait_for(lambda: False, trials.draw.uniform(0, 1.5))
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
    code = started.end()
    said = started.said()
    if code == 0:  # it had written everything before the disk was full
        trials.seen["came too late"] += 1
        expect_same(outcome(out), arena.reference())
        return
    met = next((what for what in ("metrics", "checkpoint") if what in said), "another file")
    trials.seen[f"full at: {met}"] += 1
    _judge(arena, out, code, said, filler)


def _limit(arena: Arena, trials: Trials, out: Path) -> None:
    """No file may be larger than so many bytes: the largest of a checkpoint is not written."""
    limit = trials.draw.randrange(10_000, 100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        started = arena.start(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    code = started.end()
    trials.seen["file size"] += 1
    _judge(arena, out, code, started.said(), None)


def _judge(arena: Arena, out: Path, code: int, said: str, filler: Path | None) -> None:
    expect(code == 2, f"code {code}: {said}")
    lines = [line for line in said.splitlines() if line.startswith("lgkd: ")]
    expect(len(lines) == 1, f"{len(lines)} lines: {said}")
    expect("No space left" in said or "File too large" in said, f"it said {said!r}")
    found = load_newest(out / "checkpoint")
    expect(found is None or not found.damaged, f"a damaged checkpoint: {found and found.damaged}")
    left = [path.name for path in out.rglob("*.tmp")]
    expect(not left, f"left behind: {left}")
    if filler is not None:
        filler.unlink(missing_ok=True)
    expect_same(arena.finish(out), arena.reference())


@part("damage", "R5", "a flipped or cut checkpoint is never loaded, the good one before it is", 250)
def damage(arena: Arena, trials: Trials) -> None:
    out = arena.new("damaged")
    started = arena.start(out)
    started.wait_for(lambda: len(list((out / "checkpoint").glob("step-????????"))) > 1)
    started.kill_all()
    root = out / "checkpoint"
    good = load_newest(root)
    assert good is not None
    before = min(int(path.name[5:]) for path in root.glob("step-????????"))
    flips = max(1, round(trials.wanted * 0.8))
    for path, data in corruptions(good.folder, trials.draw.randrange(1 << 30), flips, max(1, trials.wanted - flips)):
        if not trials.left():
            break
        with trials.one(f"{path.name}, {len(data)} bytes"):
            kept = path.read_bytes()
            path.write_bytes(data)
            try:
                found = load_newest(root)
            finally:
                path.write_bytes(kept)
            expect(found is not None and found.step == before, f"step {found and found.step}, expected {before}")
            expect(str(good.folder) in found.damaged[0], f"it named {found.damaged}")
    again = load_newest(root)
    with trials.judging("undamaged again"):
        expect(again is not None and again.step == good.step, "the good one is not taken")
    with trials.judging("a real run over damage"):
        _run_over_damage(arena, trials, out)


def _run_over_damage(arena: Arena, trials: Trials, out: Path) -> None:
    """The newest damaged: the run goes on from the one before. Both damaged: it is refused by name, nothing changes."""
    newer, older = sorted((out / "checkpoint").glob("step-????????"), reverse=True)
    spoilt = newer / "optimizer.safetensors", older / "student.safetensors"
    kept = [path.read_bytes() for path in spoilt]
    for path, data in zip(spoilt, kept, strict=True):
        path.write_bytes(data[: len(data) // 2])
    started = arena.start(out)
    expect(started.end() == 2, f"both damaged, and it ended with {started.process.returncode}")
    expect(all(str(path) in started.said() for path in spoilt), f"not named: {started.said()}")
    try:
        load_newest(out / "checkpoint")
    except InputError:
        pass
    else:
        expect(False, "a run that was refused changed the checkpoints")
    spoilt[1].write_bytes(kept[1])
    expect_same(arena.finish(out), arena.reference())
    trials.seen["runs over damage"] += 2
