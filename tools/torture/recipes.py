"""Mutated recipes: each is taken and reads back equal, or is refused with the key and the line, in no time."""

import math
import random
import re
import string
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lgkd._internal.paths import recipe_names, recipes_folder
from lgkd.config import apply_overrides, dump_recipe, load_recipe, parse_recipe
from lgkd.errors import RecipeError
from tools.torture.arena import Arena
from tools.torture.inside import expect_words
from tools.torture.parts import Trials, expect, part

WITHIN = 2.0
BY_COMMAND = 100
"""Every so many recipes one goes through the command line, too."""

_NO_LINE = re.compile(r"  (not readable: |\.\.\. and \d+ more|longer than |--set )")


class Mutated(NamedTuple):
    """A recipe that was changed.

    Attributes:
        content: of the file.
        key: what a refusal has to name; None where nobody can say.
        refused: whether it must not be taken.
    """

    content: bytes
    key: str | None = None
    refused: bool = False


@part("recipes", "R9", "a mutated recipe reads back equal or is refused with key and file:line, within 2 s", 2000)
def recipes(arena: Arena, trials: Trials) -> None:
    place = arena.new("recipes")
    place.mkdir()
    while trials.left():
        kind = trials.draw.choice([*MUTATIONS, "--set"])
        name = trials.draw.choice(recipe_names())
        with trials.one(f"{kind} in {name}, trial {trials.made}"):
            begun = time.monotonic()
            if kind == "--set":
                refusal = _overridden(name, trials.draw)
            else:
                text = (recipes_folder() / f"{name}.yaml").read_text("utf-8")
                mutated = MUTATIONS[kind](text, trials.draw)
                file = place / trials.draw.choice(["mine.yaml", "ünder scored.yml", "a b.YAML"])
                file.write_bytes(mutated.content)
                begun = time.monotonic()
                refusal = _loaded(file, mutated)
            seconds = time.monotonic() - begun
            expect(seconds < WITHIN, f"{seconds:.1f} s")
            trials.seen["taken" if refusal is None else "refused"] += 1
            if kind != "--set" and trials.made % BY_COMMAND == 0:
                _by_command(arena, file, refusal)
                trials.seen["by command"] += 1


def _loaded(file: Path, mutated: Mutated) -> str | None:
    """The refusal of a file, found to be a good one; None where it was taken and reads back."""
    try:
        recipe = load_recipe(file)
    except RecipeError as error:
        _judge(str(error), str(file))
        # What cannot be read as YAML, or is nested too deeply, has a line and no keys.
        unread = "not readable: " in str(error)
        expect(unread or (mutated.key or "") in str(error), f"{mutated.key!r} is not named: {str(error)[:400]}")
        return str(error)
    expect(not mutated.refused, f"it was taken, although {mutated.key!r} is wrong")
    text = dump_recipe(recipe)
    expect(parse_recipe(text) == recipe and dump_recipe(parse_recipe(text)) == text, "it does not read back equal")
    return None


def _overridden(name: str, draw: random.Random) -> str | None:
    recipe = load_recipe(name)
    values = yaml.safe_load(dump_recipe(recipe))
    changes = []
    for _ in range(draw.randrange(1, 4)):
        path = ".".join(map(str, draw.choice(list(_paths(values)))))
        if draw.random() < 0.3:
            path = draw.choice([path + ".x", path[1:], path + ".0", "..", "", path.upper(), "guide.terms.7.weight"])
        value = yaml.safe_dump(nasty(draw), default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
        changes.append(draw.choice([f"{path}={value}", f"{path}={value}", f"{path}={draw.choice(SCRAPS)}", path]))
    try:
        changed = apply_overrides(recipe, changes)
    except RecipeError as error:
        _judge(str(error), "--set")
        return str(error)
    expect(parse_recipe(dump_recipe(changed)) == changed, f"{changes} does not read back equal")
    return None


def _judge(message: str, origin: str) -> None:
    """A headline with the file, and a line for every mistake with the file's line and the key."""
    first, *rest = message.split("\n")
    expect(first.startswith(f"{origin}: "), f"the file is not named: {first[:300]}")
    expect(all(line.isprintable() for line in (first, *rest)), f"it is not printable: {message[:300]!r}")
    expect(len(message) < 50_000, f"{len(message)} signs")
    if origin == "--set":
        return
    place = re.compile(rf"  {re.escape(origin)}:\d+  \S")
    unplaced = [line for line in rest if not place.match(line) and not _NO_LINE.match(line)]
    expect(bool(rest) and not unplaced, f"no line is named: {unplaced[:2] or first}")


def _by_command(arena: Arena, file: Path, refusal: str | None) -> None:
    begun = time.monotonic()
    plain = arena.start_words(["recipes", "quickstart"])
    expect(plain.end() == 0, plain.said())
    start_up = time.monotonic() - begun
    begun = time.monotonic()
    started = arena.start_words(["recipes", str(file)])
    code = started.end(60)
    seconds = time.monotonic() - begun
    expect_words(code, started.said(), [0 if refusal is None else 2], str(file), lines=True)
    expect(seconds < start_up + WITHIN, f"{seconds:.1f} s, {start_up:.1f} s of them to start")


# What goes wrong with values


def nasty(draw: random.Random) -> Any:
    """A value that is wrong almost everywhere."""
    deep: Any = draw.choice([1, "x"])
    for _ in range(draw.choice([1, 5, 19, 40])):
        deep = [deep] if draw.random() < 0.5 else {"a": deep}
    return draw.choice(
        [
            None, True, False, 0, -1, 1, 3, 0.5, -0.5, 10**draw.randrange(400), -(10**30), 1e308, 5e-324, math.nan,
            math.inf, -math.inf, "", " ", "x", "1e-3", "1e999", "0x10", "010", "1_000", "nan", "~", "null", "yes",
            "2001-01-01", "é" * 50, "\u202eevil", "\0".replace("\0", "\u2028"), "x" * 100_000, "../../etc/passwd",
            "${HOME}", "[1, 2]", [], {}, [[]], [None], [1, 2], [2, 1], [1, 2, 3], ["a", "b"], {"a": 1}, {"kind": "kd"},
            [{"kind": "rkd"}, {"kind": "rkd"}], [{"kind": "own", "loss": "os.system"}], list(range(300)), deep,
        ]
    )  # fmt: skip


def _paths(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _at(values: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def _sections(values: Any) -> list[tuple[str | int, ...]]:
    return [(), *(path for path in _paths(values) if isinstance(_at(values, path), dict))]


def _written(values: Any, draw: random.Random, key: str | None = None, *, refused: bool = False) -> Mutated:
    text = yaml.safe_dump(
        values,
        sort_keys=draw.random() < 0.2,
        allow_unicode=draw.random() < 0.7,
        default_flow_style=draw.choice([None, False, False, True]),
        width=draw.choice([20, 80, 10**6]),
    )
    return Mutated(text.encode("utf-8", "surrogatepass"), key, refused)


def _value(text: str, draw: random.Random) -> Mutated:
    values = yaml.safe_load(text)
    path = draw.choice(list(_paths(values)))
    _at(values, path[:-1])[path[-1]] = nasty(draw)
    # The kind of a term changes which other keys may stand beside it, and these are named then.
    named = next(key for key in reversed(path) if isinstance(key, str))
    return _written(values, draw, None if named == "kind" else named)


def _unknown(text: str, draw: random.Random) -> Mutated:
    values = yaml.safe_load(text)
    key = draw.choice(["learningrate", "lr_", "Größe", "日本", "x" * 40, "epochs2", "a.b", "0"])
    _at(values, draw.choice(_sections(values)))[key] = nasty(draw)
    return _written(values, draw, key, refused=True)


def _mistyped(text: str, draw: random.Random) -> Mutated:
    values = yaml.safe_load(text)
    path = draw.choice([path for path in _paths(values) if isinstance(path[-1], str) and len(str(path[-1])) > 2])
    section, key = _at(values, path[:-1]), str(path[-1])
    place = draw.randrange(len(key) - 1)
    wrong = draw.choice([key[:place] + key[place + 1 :], key + "s", key.upper(), key[: place + 1] + key[place:]])
    section[wrong] = section.pop(key)
    # Without its kind nothing else of a term can be looked at.
    return _written(values, draw, "kind" if key == "kind" else wrong, refused=True)


def _missing(text: str, draw: random.Random) -> Mutated:
    values = yaml.safe_load(text)
    path = draw.choice(list(_paths(values)))
    del _at(values, path[:-1])[path[-1]]
    # What is checked against it is named, too.
    return _written(values, draw)


def _moved(text: str, draw: random.Random) -> Mutated:
    values = yaml.safe_load(text)
    taken = deepcopy(_at(values, draw.choice(list(_paths(values)))))
    goal = draw.choice(list(_paths(values)))
    _at(values, goal[:-1])[goal[-1]] = taken
    return _written(values, draw)


# What goes wrong with text

SCRAPS = (
    "&a ", "*a", "!!int", "!x ", "!!python/object/apply:os.system ", "{", "}", "[", "]", "'", '"', "|", ">", "#",
    "---", "...", "<<: ", "- ", "? ", ": ", "%YAML 9.9\n", "9" * 400, '"\\ud800"', '"\\U99999999"', "\t", "\0",
    "\x85", "\ufeff", "\u2028", "é", "\U0001f999", "\n", "\r", "null", "@", "`", "\x1b[2J",
)  # fmt: skip


def _doubled(text: str, draw: random.Random) -> Mutated:
    lines = text.splitlines(keepends=True)
    keyed = [
        (place, match[1]) for place, line in enumerate(lines) if (match := re.match(r" *(\w+): +[^\s#|>{\[]", line))
    ]
    place, key = draw.choice(keyed)
    lines.insert(place, lines[place])
    return Mutated("".join(lines).encode(), key, refused=True)


def _cut(text: str, draw: random.Random) -> Mutated:
    content = text.encode()
    return Mutated(content[: draw.randrange(len(content))])


def _flipped(text: str, draw: random.Random) -> Mutated:
    content = bytearray(text.encode())
    for _ in range(draw.choice([1, 1, 3, 20])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return Mutated(bytes(content))


def _scraps(text: str, draw: random.Random) -> Mutated:
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(SCRAPS) + text[place + draw.choice([0, 0, 1, 5]) :]
    return Mutated(text.encode("utf-8", "surrogatepass"))


def _lines(text: str, draw: random.Random) -> Mutated:
    lines = text.splitlines(keepends=True)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(lines))
        how = draw.choice(["drop", "shift", "tab", "swap", "join"])
        if how == "drop" and len(lines) > 1:
            del lines[place]
        elif how == "shift":
            lines[place] = " " * draw.randrange(1, 5) + lines[place]
        elif how == "tab":
            lines[place] = "\t" + lines[place].lstrip()
        elif how == "swap":
            other = draw.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines[place] = lines[place].rstrip("\n")
    return Mutated("".join(lines).encode())


def _encoded(text: str, draw: random.Random) -> Mutated:
    how = draw.choice(["utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252", "crlf", "nul"])
    if how == "crlf":
        return Mutated(text.replace("\n", "\r\n").encode())
    if how == "nul":
        return Mutated(text.encode() + bytes(draw.randrange(1, 100)))
    return Mutated(text.replace("about: ", "about: Größe ", 1).encode(how, "replace"))


def _large(text: str, draw: random.Random) -> Mutated:
    letters = "".join(draw.choices(string.ascii_letters, k=50))
    more = draw.choice(
        [
            f"words: {letters * 40_000}\n",
            "".join(f"key{number}: {number}\n" for number in range(5_000)),
            "list: [" + "1, " * 50_000 + "1]\n",
            "list:\n" + "  - {a: 1}\n" * 20_000,
            "deep: " + "[" * draw.randrange(15, 5_000) + "\n",
            "deep: " + "{a: " * draw.randrange(15, 5_000) + "\n",
            "".join(f"{' ' * depth}k{depth}:\n" for depth in range(200)),
            "# " + letters * 30_000 + "\n",
        ]
    )
    return Mutated((text + more).encode())


MUTATIONS: dict[str, Callable[[str, random.Random], Mutated]] = {
    "value": _value,
    "unknown key": _unknown,
    "mistyped key": _mistyped,
    "missing key": _missing,
    "moved": _moved,
    "key twice": _doubled,
    "cut": _cut,
    "flipped": _flipped,
    "scraps": _scraps,
    "lines": _lines,
    "encoding": _encoded,
    "large": _large,
}
"""Ways in which a recipe's text is changed."""
