"""Run folders of another time: those of an earlier version are read, those of a later one are refused by name."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lgkd
from lgkd.models.teacher_store import CARD
from lgkd.runs.folder import ENV, RUN, STUDENT, package_version
from lgkd.runs.identity import _PACKAGES
from lgkd.training.checkpoint import MANIFEST, STATE
from tools.golden.old_run import DISTILL, FOLDER, LITTLE
from tools.torture.arena import Arena
from tools.torture.inside import Ended, command, expect_words
from tools.torture.parts import Trials, expect, part
from tools.torture.pickles import vouch

# What a file names is code only where a person names it, too.
_USE = ["--use", LITTLE.partition(":")[0]]
_TEACHER = "home/teachers/digits/tools.torture.students-Little"
READ: dict[str, Callable[[Path], list[str]]] = {
    f"finished/{RUN}": lambda place: ["evaluate", str(place / "finished"), *_USE],
    f"finished/{STUDENT}": lambda place: ["evaluate", str(place / "finished"), *_USE],
    f"paused/{RUN}": lambda place: ["resume", str(place / "paused"), "--force", "--quiet", *_USE],
    f"paused/{ENV}": lambda place: ["resume", str(place / "paused"), "--force", "--quiet", *_USE],
    f"paused/checkpoint/step-00000001/{STATE}": lambda place: [
        "resume",
        str(place / "paused"),
        "--force",
        "--quiet",
        *_USE,
    ],
    f"paused/checkpoint/step-00000001/{MANIFEST}": lambda place: [
        "resume",
        str(place / "paused"),
        "--force",
        "--quiet",
    ],
    f"{_TEACHER}/{CARD}": lambda place: [*DISTILL, "--out", str(place / "new"), "--epochs", "1"],
}
"""Files with a format, and who reads them."""


@part(
    "old",
    "R20",
    "an old run is evaluated and gone on with; one of a later format, or that lacks a key, is refused in words",
    120,
)
def old(arena: Arena, trials: Trials) -> None:
    while trials.left():
        kind = list(KINDS)[trials.made if trials.made < 3 else trials.draw.randrange(2, len(KINDS))]
        place = arena.new("old")
        shutil.copytree(FOLDER, place)
        with trials.one(f"{kind}, trial {trials.made}"):
            trials.seen[kind] += 1
            KINDS[kind](place, trials.draw)
        shutil.rmtree(place)


def _at(place: Path, *words: str) -> Ended:
    return command(words, LGKD_HOME=str(place / "home"))


def _evaluated(place: Path, _: random.Random) -> None:
    ended = _at(place, "evaluate", str(place / "finished"), "--json", *_USE)
    expect_words(ended.code, ended.said, [0])
    found, kept = json.loads(ended.out), json.loads((place / "finished" / RUN).read_text())["results"]
    # Another version's rounding may turn the decision on an image.
    expect(abs(found["top1"] - kept["test_top1"]) < 3 / 599, f"{found['top1']} now, {kept['test_top1']} then")
    expect("agreement" in found, "its teacher was not found")
    run = lgkd.load_run(place / "finished")
    expect(len(run.metrics) == 12 and not run.student.training, "it is not read as it was written")


def _gone_on_with(place: Path, draw: random.Random) -> None:
    """With the versions that it was made with it goes on; with others it is refused with their names, and forced."""
    words = draw.choice(
        [
            ["resume", str(place / "paused"), "--quiet", *_USE],
            [*DISTILL, "--epochs", "2", "--out", str(place / "paused")],
        ]
    )
    then = json.loads((place / "paused" / ENV).read_text())["packages"]
    differing = [name for name in _PACKAGES if then[name] != package_version(name)]
    ended = _at(place, *words)
    if differing:
        expect_words(
            ended.code, ended.said, [2], *(f"versions.{name}: was" for name in differing), "--force", lines=True
        )
        ended = _at(place, *words, "--force")
    expect_words(ended.code, ended.said, [0])
    rows = lgkd.load_run(place / "paused").metrics
    expect([row["epoch"] for row in rows] == [1, 2], f"it has {len(rows)} epochs")


def _of_the_future(place: Path, draw: random.Random) -> None:
    file = draw.choice([name for name in READ if not name.endswith((STATE, ENV))])
    value = json.loads((place / file).read_text())
    key = "version" if file.endswith(CARD) else "format"
    value[key] = draw.choice([2, 3, 99, 10**9, "2", 1.5, None])
    _write(place / file, value)
    ended = _at(place, *READ[file](place))
    expect_words(ended.code, ended.said, [2], str(place / file), "format")


def _lacking(place: Path, draw: random.Random) -> None:
    """A key that is not there, as in what was written before there was one."""
    file, value, path = _some_key(place, draw)
    inner = _inner(value, path)
    del inner[path[-1]]
    _judge(place, file, value, f"without {'.'.join(path)}")


def _of_another_kind(place: Path, draw: random.Random) -> None:
    file, value, path = _some_key(place, draw)
    _inner(value, path)[path[-1]] = draw.choice([None, True, -1, 10**30, 0.5, "", "x", [], [1], {}, {"a": 1}])
    _judge(place, file, value, f"with another {'.'.join(path)}")


def _some_key(place: Path, draw: random.Random) -> tuple[str, Any, tuple[str, ...]]:
    file = draw.choice([name for name in READ if not name.endswith(MANIFEST)])
    value = json.loads((place / file).read_text())
    return file, value, draw.choice(list(_keys(value)))


def _judge(place: Path, file: str, value: Any, what: str) -> None:
    _write(place / file, value)
    if file.endswith(STATE):
        vouch(place / file)
    ended = _at(place, *READ[file](place))
    try:
        expect_words(ended.code, ended.said, [0, 2, 3], lines=True)
    except Exception as error:
        raise type(error)(f"{file} {what}: {error}") from None


def _keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _keys(inner, (*path, key))


def _inner(value: Any, path: tuple[str, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _write(file: Path, value: Any) -> None:
    # As a checkpoint's manifest is written, which must give the same bytes again.
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "evaluated": _evaluated,
    "gone on with": _gone_on_with,
    "of the future": _of_the_future,
    "a key is lacking": _lacking,
    "a value of another kind": _of_another_kind,
}
"""What is done with an old run, or to it."""
