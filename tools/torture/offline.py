"""Without a network: what is here is used and no connection is tried; what is not is told at once, with its place."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from lgkd.data.catalogue import PUBLISHED
from tests.support.published import as_published, make_cifar, make_flowers
from tests.support.small import DISTILL, TRAIN
from tools.torture.arena import CHECKOUT, Arena
from tools.torture.inside import Ended, command, expect_words
from tools.torture.parts import Trials, expect, part

WITHIN = 2.0
TRIED = "LGKD_TORTURE_TRIED"
"""Name of the environment variable that holds the file in which another process writes down whom it calls."""

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_SPY = f"""
import os, sys
def spy(event, arguments):
    if event in {_EVENTS!r}:
        with open(os.environ[{TRIED!r}], "a") as stream:
            stream.write(f"{{event}} {{arguments}}\\n")
sys.addaudithook(spy)
"""
NO_NETWORK = ("unshare", "--net")


@part(
    "offline",
    "R14",
    "with the data here a run to its end, else code 3 in 2 s with the place; no connection is tried",
    24,
)
def offline(arena: Arena, trials: Trials) -> None:
    kinds = list(KINDS)
    with trials.judging("the ears themselves"):
        hear_something(arena.new("ears"))
    while trials.left():
        kind = kinds[trials.made % len(kinds)]
        said = trials.draw.choice(["--offline", "LGKD_OFFLINE"])
        with trials.one(f"{kind}, by {said}"):
            trials.seen[kind] += 1
            place = arena.new("offline")
            place.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                KINDS[kind](arena, place, trials, said, patch)
            shutil.rmtree(place)


# Inside of this process: time counts from when torch has been imported

_TRIED: list[str] = []
_LISTENS = False


@cache
def _listen() -> None:
    """Hears of every connection from now on; what is called this way cannot be taken away again."""

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if _LISTENS and event in _EVENTS:
            _TRIED.append(f"{event} {arguments}")

    sys.addaudithook(hear)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Everyone who is called meanwhile."""
    global _LISTENS
    _listen()
    _TRIED.clear()
    _LISTENS = True
    try:
        yield _TRIED
    finally:
        _LISTENS = False


def without_network(words: Sequence[str], said: str, *, at: Path, home: Path) -> tuple[Ended, list[str]]:
    """A command that is told to be offline by an option or by the environment; and whom it called."""
    more = ["--offline"] if said == "--offline" else []
    with listening() as tried:
        ended = command([*words, *more], at=at, LGKD_HOME=str(home), LGKD_OFFLINE=None if more else "1")
    return ended, list(tried)


def _absent(name: str, *words: str) -> Callable[..., None]:
    """A named set that is not here."""

    def run(arena: Arena, place: Path, trials: Trials, said: str, patch: pytest.MonkeyPatch) -> None:
        begin = [word.replace("NAME", name) for word in words]
        ended, tried = without_network(begin, said, at=place, home=place / "home")
        expect(not tried, f"it called {tried[:3]}")
        expect_words(ended.code, ended.said, [3], f"{name} is not here", str(place / "data" / name.split("-train")[0]))
        expect(ended.seconds < WITHIN, f"{ended.seconds:.1f} s")
        made = [str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()]
        expect(not made, f"written: {made}")

    return run


def _unreachable(arena: Arena, place: Path, trials: Trials, said: str, patch: pytest.MonkeyPatch) -> None:
    """A network that is not there, and nobody has said so."""
    why = trials.draw.choice([socket.gaierror(-3, "Temporary failure in name resolution"), OSError(101, "unreachable")])

    def refuse(*_: object, **__: object) -> None:
        raise why

    patch.setattr(socket, "getaddrinfo", refuse)
    patch.setattr(socket.socket, "connect", refuse)
    words = [*TRAIN, "--dataset", "cifar10"]
    ended = command(words, at=place, LGKD_HOME=str(place / "home"), LGKD_OFFLINE=None)
    expect_words(ended.code, ended.said, [3], "cannot download https://", str(place / "home" / "data" / "cifar10"))
    expect(ended.seconds < WITHIN, f"{ended.seconds:.1f} s")


def _published(name: str) -> Callable[..., None]:
    """The publisher's files lie in the store, or in a folder."""

    def run(arena: Arena, place: Path, trials: Trials, said: str, patch: pytest.MonkeyPatch) -> None:
        (make_cifar if name == "cifar100" else make_flowers)(place, patch)
        for file in PUBLISHED[name]:
            assert as_published(place / file.name) == file._replace(url=f"https://data.example/{file.name}")
            goal = (place / "home" / "data" if trials.draw.random() < 0.5 else place / "data") / name
            goal.mkdir(parents=True, exist_ok=True)
            (place / file.name).rename(goal / file.name)
        words = [*TRAIN, "--dataset", name, "--epochs", "1", "--batch-size", "2", "--out", str(place / "run")]
        ended, tried = without_network(words, said, at=place, home=place / "home")
        expect(not tried, f"it called {tried[:3]}")
        expect_words(ended.code, ended.said, [0])

    return run


def hear_something(place: Path) -> None:
    """Both ways of listening hear a connection, here and in another process; `Lost` if one is deaf."""
    call = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    with listening() as tried:
        exec(call)
    expect(len(tried) == 1 and "127.0.0.1" in tried[0], f"heard in this process: {tried}")
    environment, tried_by_others = _spied(place)
    subprocess.run([sys.executable, "-c", call], env=os.environ | environment, check=True)
    expect("127.0.0.1" in tried_by_others.read_text(), "nothing was heard in another process")


def _spied(place: Path) -> tuple[dict[str, str], Path]:
    """The environment of a process that writes down whom it calls, and the file into which it does."""
    (place / "spy").mkdir(parents=True, exist_ok=True)
    (place / "spy" / "sitecustomize.py").write_text(_SPY)
    tried = place / "tried"
    return {"PYTHONPATH": f"{place / 'spy'}{os.pathsep}{CHECKOUT}", TRIED: str(tried)}, tried


# In a process of its own, in a network without anybody


def _whole_run(arena: Arena, place: Path, trials: Trials, said: str, patch: pytest.MonkeyPatch) -> None:
    """A teacher's guidance to its end, and what comes after it."""
    pictures, home = arena.world.pictures, place / "home"
    shutil.copytree(arena.world.home, home)
    words = [*DISTILL, "--epochs", "1", "--dataset", str(pictures), "--out", str(place / "run")]
    more = ["--offline"] if said == "--offline" else []
    for line in ([*words, *more], ["evaluate", str(place / "run")], ["check", str(pictures), *more]):
        tried = in_no_network(arena, place, line, LGKD_HOME=str(home), LGKD_OFFLINE=None if more else "1")
        expect(not tried, f"{line[0]} called {tried}")


def in_no_network(arena: Arena, place: Path, words: Sequence[str], **environment: str | None) -> list[str]:
    """Run a command to its end where there is no network, and not even this machine's own; whom it called."""
    spied, tried = _spied(place)
    started = arena.start_words(words, through=NO_NETWORK if has_namespaces() else (), **spied | environment)
    code = started.end()
    expect(code == 0, f"{words[0]} ended with {code}: {started.said()[-600:]}")
    return tried.read_text().splitlines() if tried.exists() else []


@cache
def has_namespaces() -> bool:
    """Whether a process can be put into a network of its own; elsewhere the spy alone has to do."""
    return shutil.which("unshare") is not None and os.system("unshare --net true 2> /dev/null") == 0


KINDS: dict[str, Callable[..., None]] = {
    "a guided run of what is here": _whole_run,
    "train on what is not here": _absent("cifar10", *TRAIN, "--dataset", "NAME"),
    "publisher's archive, here": _published("cifar100"),
    "check what is not here": _absent("flowers102-trainval", "check", "NAME"),
    "an unreachable network": _unreachable,
    "publisher's files, here": _published("flowers102"),
    "train on what is not here, in a tree": _absent("tiny-imagenet", *TRAIN, "--dataset", "NAME"),
    "a teacher of what is not here": _absent("cifar100", "train-teacher", "resnet8", "NAME", "--device", "cpu"),
}
"""What is asked for."""
