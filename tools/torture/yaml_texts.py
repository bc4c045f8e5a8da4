"""YAML that wants to run, to grow or to reach out, wherever lgkd reads YAML."""

import random
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import yaml

from lgkd.config.yaml_io import read_yaml
from tests.support.small import DISTILL, TRAIN
from tools.torture.arena import Arena
from tools.torture.inside import command, expect_words
from tools.torture.parts import Trials, expect, part

WITHIN, MOST_MEMORY = 2.0, 100 << 20


@part("yaml", "R12", "tags, aliases, repeated keys, 10 MB: refused within 2 s, nothing runs; ~ and ${X} stay text", 200)
def texts(arena: Arena, trials: Trials) -> None:
    place = arena.new("yaml")
    place.mkdir()
    canary = place / "canary"
    words = [*DISTILL, "--dataset", str(arena.world.pictures), "--out", str(place / "passed-on"), "--max-time", "0"]
    assert command(words, LGKD_HOME=str(arena.world.home)).code == 75
    while trials.left():
        kind, reader = trials.draw.choice(list(HOSTILE)), trials.draw.choice(list(READERS))
        with trials.one(f"{kind} by {reader}, trial {trials.made}"):
            text = HOSTILE[kind](canary, trials.draw)
            peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            READERS[reader](arena, place, text)
            seconds = time.monotonic() - begun
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
            expect(not canary.exists(), "it ran")
            expect(seconds < WITHIN, f"{seconds:.1f} s")
            expect(grown < MOST_MEMORY, f"{grown >> 20} MiB more memory")
            trials.seen[reader] += 1
        canary.unlink(missing_ok=True)
    with trials.judging("text that only looks like something else"):
        for value in PLAIN:
            found = read_yaml(f"about: {value}").values
            expect(found == {"about": value}, f"{value!r} became {found!r}")
            trials.seen["stays text"] += 1


def _tag(canary: Path, draw: random.Random) -> str:
    call = f"[\"open('{canary}', 'w').close()\"]"
    return draw.choice(
        [
            f"about: !!python/object/apply:builtins.exec {call}\n",
            f"about: !!python/object/apply:os.system ['touch {canary}']\n",
            f"!!python/object/new:type {{args: [z, [], {{extend: !!python/name:exec}}], listitems: {call}}}\n",
            f"about: x\nview: !!python/object/apply:subprocess.Popen [[touch, '{canary}']]\n",
            f"about: !call {call}\n",
            f"about: !import_call {{key: os.system, init: {{args: ['touch {canary}']}}}}\n",
            "about: !!python/name:os.system\n",
            "about: !!python/module:antigravity\n",
            "about: !!binary c3lzdGVt\n",
            "about: !<tag:yaml.org,2002:python/object/apply:os.system> [id]\n",
            "%TAG ! tag:yaml.org,2002:python/\n---\nabout: !object/apply:os.system [id]\n",
            f"? !!python/object/apply:builtins.exec {call}\n: 1\n",
            "trains: !!str student\n",
        ]
    )


def _alias(_: Path, draw: random.Random) -> str:
    depth = draw.randrange(2, 30)
    names = [f"a{number}" for number in range(depth)]
    tower = f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x]\n"
    for lower, upper in pairwise(names):
        tower += f"{upper}: &{upper} [{', '.join([f'*{lower}'] * 9)}]\n"
    return draw.choice(
        [
            tower,
            "a: &a [*a]\n",
            "a: &a {b: *a}\n",
            "view: &v {flip: 0}\nmix:\n  <<: *v\n",
            "about: &x hello\nsource: *x\n",
        ]
    )


def _large(_: Path, draw: random.Random) -> str:
    return draw.choice(
        [
            "about: " + "x" * 10_000_000 + "\n",
            "".join(f"key{number}: {number}\n" for number in range(500_000)),
            "a: [" + "1," * 4_000_000 + "1]\n",
            "a: " + "[" * 10_000_000 + "\n",
            "# " + "x" * 10_000_000 + "\nabout: x\n",
            "about: |\n" + "  line\n" * 1_500_000,
        ]
    )


def _deep(_: Path, draw: random.Random) -> str:
    depth = draw.randrange(21, 100_000)
    return draw.choice(
        [
            "a: " + "[" * depth + "]" * depth,
            "a: " + "{a: " * depth + "1" + "}" * depth,
            "- " * min(depth, 50_000) + "x\n",
        ]
    )


def _twice(_: Path, draw: random.Random) -> str:
    first, second = draw.sample(["student", "teacher", "'student'", '"student"'], 2)
    return f"about: x\ntrains: {first}\nbatch_size: 8\ntrains: {second}\n"


def _registry(canary: Path, draw: random.Random) -> str:
    """Terms that lgkd does not have."""
    kind = draw.choice(["os.system", "own", "lgkd.losses:MapLoss", "builtins:exec", "_component_", "import"])
    term = f"{{kind: {kind}, loss: os.system, options: {{command: 'touch {canary}'}}}}"
    return f"about: x\ntrains: student\nguide: {{terms: [{term}]}}\n_component_: os.system\n"


HOSTILE: dict[str, Callable[[Path, random.Random], str]] = {
    "a tag": _tag,
    "aliases": _alias,
    "ten million signs": _large,
    "depth": _deep,
    "a key twice": _twice,
    "a name outside of the registry": _registry,
}
"""What no reader may take."""

PLAIN = (
    "~/x",
    "${HOME}",
    "$HOME",
    "/etc/passwd",
    "../../x",
    "file:///etc/passwd",
    "x `id`",
    "$(id)",
    "x %(home)s",
    "x {{ 7 }}",
)
"""What some readers make something else of."""


def _by_file(arena: Arena, place: Path, text: str, *words: str) -> None:
    file = place / "mine.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    ended = command([word.replace("FILE", str(file)) for word in words], LGKD_HOME=str(arena.world.home))
    expect_words(ended.code, ended.said, [2], str(file), lines=True)


def _by_run(arena: Arena, place: Path, text: str) -> None:
    """A paused run that was passed on, with another recipe in it."""
    run = place / "passed-on"
    (run / "recipe.yaml").write_text(text, encoding="utf-8")
    ended = command(["resume", str(run), "--quiet"], LGKD_HOME=str(arena.world.home))
    expect_words(ended.code, ended.said, [2], str(run / "recipe.yaml"), lines=True)


def _by_option(arena: Arena, place: Path, text: str, option: str, begin: str) -> None:
    """What is typed behind an option is read as YAML, too; a shell hands on some hundred thousand signs at most."""
    value = text.strip()[:100_000]
    words = [*TRAIN, "--dataset", str(arena.world.pictures), "--out", str(place / "none"), option, f"{begin}={value}"]
    ended = command(words, LGKD_HOME=str(arena.world.home))
    expect_words(ended.code, ended.said, [2], begin, lines=True)
    expect(not (place / "none").exists(), "it was trained")


def _by_reader(_: Arena, __: Path, text: str) -> None:
    document = read_yaml(text)
    plain = yaml.dump(document.values) if not document.problems else ""
    expect(bool(document.problems) or len(plain) < 2_000_000, "it was taken")


READERS: dict[str, Callable[[Arena, Path, str], None]] = {
    "recipes": lambda arena, place, text: _by_file(arena, place, text, "recipes", "FILE"),
    "distill": lambda arena, place, text: _by_file(
        arena, place, text, *DISTILL, "--dataset", str(arena.world.pictures), "--recipe", "FILE"
    ),
    "resume": _by_run,
    "--set": lambda arena, place, text: _by_option(arena, place, text, "--set", "about"),
    "--student-option": lambda arena, place, text: _by_option(arena, place, text, "--student-option", "depth"),
    "the reader": _by_reader,
}
"""Who reads YAML."""
