"""Odd places to run in: nothing may be written, no home, no terminal, strange names, locales and masks."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.support.small import DISTILL, TINY, TRAIN
from tools.torture.arena import Arena
from tools.torture.parts import Trials, expect, part

NOWHERE = "/proc/lgkd"
"""A folder that is not there, and that not even root can make."""


@dataclass
class Place:
    """Where a command is run.

    Attributes:
        root: everything below it is this place's own.
        at: the working folder.
        home: the store; it has the teacher.
        pictures: the images.
        run: a finished run of these images.
        out: where a new run goes; None: it is not said.
        through: a command that starts the one given to it.
        environment: what is changed in it; None takes a variable away.
        lets: the actions that must work here; the others may be refused in a sentence.
    """

    root: Path
    at: Path
    home: Path
    pictures: Path
    run: Path
    out: Path | None
    through: tuple[str, ...] = ()
    environment: dict[str, str | None] = field(default_factory=dict)
    lets: tuple[str, ...] = ()


Where = Callable[[Arena, Path], AbstractContextManager[Place | None]]
"""Makes a place in an empty folder; None where this machine does not let it."""


def _train(place: Place) -> list[str]:
    return [*TRAIN, "--epochs", "1", "--dataset", str(place.pictures), *_out(place)]


def _distil(place: Place) -> list[str]:
    return [*DISTILL, "--epochs", "1", "--dataset", str(place.pictures), *_out(place)]


def _teach(place: Place) -> list[str]:
    size = TINY[:2]
    return [
        "train-teacher",
        "resnet8",
        str(place.pictures),
        *size,
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--replace",
        *_out(place),
    ]


def _out(place: Place) -> list[str]:
    return [] if place.out is None else ["--out", str(place.out)]


ACTIONS: dict[str, Callable[[Place], list[str]]] = {
    "train": _train,
    "distill": _distil,
    "train-teacher": _teach,
    "evaluate": lambda place: ["evaluate", str(place.run)],
    "check": lambda place: ["check", str(place.pictures)],
    "teachers": lambda place: ["teachers"],
    "recipes": lambda place: ["recipes", "quickstart"],
    "datasets": lambda place: ["datasets", "--json"],
}
"""What is asked for."""

ALL = tuple(ACTIONS)
READING = ("evaluate", "check", "teachers", "recipes", "datasets")


@part("places", "R19", "it works, or it ends with 2 or 3 and one sentence; no traceback, and nothing half made", 96)
def places(arena: Arena, trials: Trials) -> None:
    kinds = trials.draw.sample(list(PLACES), len(PLACES))
    while trials.left() and kinds:
        kind = kinds[trials.made % len(kinds)]
        root = arena.new("place")
        root.mkdir()
        try:
            with PLACES[kind](arena, root) as place:
                if place is None:
                    trials.seen["not to be had here"] += 1
                    kinds.remove(kind)
                    continue
                action = trials.draw.choice(ALL if trials.draw.random() < 0.5 else place.lets or ALL)
                with trials.one(f"{action} in {kind}"):
                    trials.seen[tried(arena, place, action)] += 1
        finally:
            shutil.rmtree(root, ignore_errors=True)


def tried(arena: Arena, place: Place, action: str) -> str:
    """What came of an action in a place; `Lost` where that is none of what is allowed there."""
    environment = {"LGKD_HOME": str(place.home)} | place.environment
    started = arena.start_words(ACTIONS[action](place), at=place.at, through=place.through, **environment)
    code, said = started.end(), started.said()
    expect("bug in lgkd" not in said, said[-900:])
    if action in place.lets:
        expect(code == 0, f"code {code}: {said[-600:]}")
    expect(code in (0, 2, 3), f"code {code}: {said[-600:]}")
    if code:
        told = [line for line in said.splitlines() if line.startswith("lgkd: ") and "lgkd: remark" not in line]
        expect(len(told) == 1 and len(told[0]) > 30, f"it said {said[-600:]!r}")
        made = place.out is not None and place.out.exists() and not (place.out / "run.json").exists()
        expect(not made or not any(place.out.iterdir()), "a run's folder is half made")
    return "works" if code == 0 else "refused"


# Places


def _plain(arena: Arena, root: Path, *, named: str = "") -> Place:
    """A place like any other, in a folder of that name."""
    where = root / named if named else root
    where.mkdir(parents=True, exist_ok=True)
    world = arena.world
    for name, given in (("home", world.home), ("pictures", world.pictures), ("run", world.guided_run)):
        shutil.copytree(given, where / name)
    run_json = where / "run" / "run.json"
    # JSON has no word for bytes that are no text; there the run's images stay where they were.
    if where.name.isprintable() and not _is_bytes(where):
        run_json.write_text(run_json.read_text().replace(str(world.pictures), str(where / "pictures")))
    return Place(where, where, where / "home", where / "pictures", where / "run", where / "new", lets=ALL)


def _is_bytes(path: Path) -> bool:
    return any("\udc80" <= sign <= "\udcff" for sign in str(path))


@contextmanager
def _read_only(folder: Path) -> Iterator[bool]:
    """A folder's copy in memory that cannot be written, as root; whether it could be made."""
    made = False
    if os.geteuid() == 0 and shutil.which("mount"):
        kept = folder.with_name(f"{folder.name}-kept")
        folder.rename(kept) if folder.exists() else kept.mkdir()
        folder.mkdir()
        made = _quiet("mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder))
        if made:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            made = _quiet("mount", "-o", "remount,ro", str(folder))
    try:
        yield made
    finally:
        if shutil.which("umount"):
            _quiet("umount", "-l", str(folder))


def _quiet(*words: str) -> bool:
    return subprocess.run(words, capture_output=True).returncode == 0


def _that_cannot_be_written(what: str, lets: Sequence[str]) -> Where:
    @contextmanager
    def opened(arena: Arena, root: Path) -> Iterator[Place | None]:
        place = _plain(arena, root)
        place.lets = tuple(lets)
        if what == "the output":
            place.out = root / "locked" / "new"
        elif what == "the working folder":
            place.at, place.out = root / "locked", None
        elif what == "the output, which is there":
            place.out = root / "locked"
        folder = {"the store": place.home, "the images": place.pictures, "the run": place.run}.get(
            what, root / "locked"
        )
        with _read_only(folder) as made:
            yield place if made else None

    return opened


def _with(lets: Sequence[str] = ALL, through: Sequence[str] = (), **environment: str | None) -> Where:
    """Another environment."""

    @contextmanager
    def opened(arena: Arena, root: Path) -> Iterator[Place | None]:
        place = _plain(arena, root)
        place.environment = {name: value and value.replace("ROOT", str(root)) for name, value in environment.items()}
        place.through, place.lets = tuple(through), tuple(lets)
        yield place

    return opened


def _named(name: str, lets: Sequence[str] = ALL, **environment: str | None) -> Where:
    """A folder of that name, in which everything lies."""

    @contextmanager
    def opened(arena: Arena, root: Path) -> Iterator[Place | None]:
        place = _plain(arena, root, named=name)
        place.environment, place.lets = dict(environment), tuple(lets)
        yield place

    return opened


@contextmanager
def _relative(arena: Arena, root: Path) -> Iterator[Place | None]:
    """Everything by its name in the working folder, which begins with a dash."""
    place = _plain(arena, root, named="-x")
    place.home, place.pictures, place.run, place.out = Path("home"), Path("pictures"), Path("run"), Path("new run")
    yield place


@contextmanager
def _classes_of_all_scripts(arena: Arena, root: Path) -> Iterator[Place | None]:
    place = _plain(arena, root)
    for split in ("train", "test"):
        for old, new in (("rows", "Ä pfel 🍎"), ("columns", "日本 [red]"), ("checks", "ة'\"%s")):
            (place.pictures / split / old).rename(place.pictures / split / new)
    place.environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    place.lets = ("train", "train-teacher", "check", "teachers", "recipes", "datasets")
    yield place


@contextmanager
def _classes_that_are_no_text(arena: Arena, root: Path) -> Iterator[Place | None]:
    place = _plain(arena, root)
    for split in ("train", "test"):
        (place.pictures / split / "rows").rename(place.pictures / split / os.fsdecode(b"r\xffws"))
    place.lets = ()
    yield place


@contextmanager
def _nothing_but_the_output(arena: Arena, root: Path) -> Iterator[Place | None]:
    """A container with a file system that cannot be written, but for one folder for the run."""
    place = _plain(arena, root)
    if not _namespaces():
        yield None
        return
    locked = " && ".join(
        [
            f"mount --bind {root} /mnt",
            *(f"mount -t tmpfs -o ro none {folder}" for folder in ("/tmp", "/var/tmp", "/dev/shm")),
            "mount -o remount,bind,ro /",
            'cd /mnt && exec "$@"',
        ]
    )
    place.through = ("unshare", "--mount", "sh", "-c", locked, "sh")
    place.at = Path("/")
    place.environment = {"HOME": NOWHERE}
    for name in ("home", "pictures", "run", "out"):
        setattr(place, name, Path("/mnt") / ("new" if name == "out" else name))
    # torch itself wants a folder for what it compiles, and cannot be imported without one.
    place.lets = ("teachers", "recipes", "datasets")
    yield place


@cache
def _namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None and _quiet("unshare", "--mount", "true")


@contextmanager
def _a_number_without_a_name(arena: Arena, root: Path) -> Iterator[Place | None]:
    """A user whom the system does not know, as in containers that are started under a number."""
    through = ("unshare", "--user", "--map-user=54321")
    if shutil.which("unshare") is None or not _quiet(*through, "true"):
        yield None
        return
    place = _plain(arena, root)
    (root / "tmp").mkdir()
    (root / "tmp" / "lgkd-54321").symlink_to(place.home)
    place.through = through
    place.environment = {"HOME": None, "USER": None, "LOGNAME": None, "LGKD_HOME": None, "TMPDIR": str(root / "tmp")}
    yield place


@contextmanager
def _gone(arena: Arena, root: Path) -> Iterator[Place | None]:
    """The working folder was removed."""
    place = _plain(arena, root)
    script = f'mkdir {root}/gone && cd {root}/gone && rmdir {root}/gone && exec "$@"'
    place.through, place.lets = ("sh", "-c", script, "sh"), ()
    yield place


def _shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", f'{script} exec "$@"', "sh")


def _closed(numbers: str) -> tuple[str, ...]:
    return ("sh", "-c", f'exec "$@" {numbers}', "sh")


PLACES: dict[str, Where] = {
    "an output that cannot be written": _that_cannot_be_written("the output", READING),
    "an output that is there and cannot be written": _that_cannot_be_written("the output, which is there", READING),
    "a store that cannot be written": _that_cannot_be_written("the store", ("train", "distill", *READING)),
    "a working folder that cannot be written": _that_cannot_be_written("the working folder", READING),
    "images that cannot be written": _that_cannot_be_written("the images", ALL),
    "a run that cannot be written": _that_cannot_be_written("the run", ALL),
    "a system that cannot be written": _nothing_but_the_output,
    "no home": _with(("train", *READING), HOME=NOWHERE, LGKD_HOME=None),
    "a home that is not set": _with(ALL, HOME=None),
    "an empty store": _with(("train", *READING), HOME=NOWHERE, LGKD_HOME=" "),
    "a store in a file": _with(("train", *READING), LGKD_HOME="ROOT/run/run.json"),
    "a store that is a sign": _with(("train", *READING), LGKD_HOME="~", HOME=NOWHERE),
    "a user without a name": _a_number_without_a_name,
    "no folder for what passes": _with(ALL, TMPDIR=NOWHERE),
    "no terminal": _with(ALL, TERM=None, COLUMNS=None),
    "a terminal of one column": _with(ALL, TERM="dumb", COLUMNS="1", LINES="1"),
    "a terminal that nobody knows": _with(ALL, TERM="\U0001f999", COLUMNS="x"),
    "no standard input": _with(ALL, _closed("<&-")),
    "no standard output": _with(ALL, _closed(">&-")),
    "no standard error": _with(ALL, _closed("2>&-")),
    "a full output": _with((), _closed("> /dev/full")),
    "the locale C": _with(ALL, LC_ALL="C", LANG=None, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "a locale that is none": _with(ALL, LC_ALL="xx_XX.latin-7", PYTHONUTF8="0"),
    "ASCII only": _with(ALL, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "classes of all scripts, in ASCII": _classes_of_all_scripts,
    "classes that are no text": _classes_that_are_no_text,
    "a mask that hides": _with(ALL, _shell("umask 0077;")),
    "a mask that shows": _with(ALL, _shell("umask 0000;")),
    "a mask that locks": _with((), _shell("umask 0777;")),
    "a mask that locks, and no powers": _with((), ("unshare", "--user", *_shell("umask 0777;"))),
    "few open files": _with(ALL, _shell("ulimit -n 64;")),
    "Python without docstrings": _with(ALL, PYTHONOPTIMIZE="2"),
    "no threads said": _with(ALL, OMP_NUM_THREADS="x"),
    "another time zone": _with(ALL, TZ="Pacific/Kiritimati"),
    "a working folder that is gone": _gone,
    "names in the working folder": _relative,
    "a folder with spaces": _named("a  b"),
    "a folder in other scripts": _named("größe-日本-🦙"),
    "a folder in other scripts, in ASCII": _named("größe-日本", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "a folder with signs": _named("[bold]%s{x}'\"$HOME`id`;#&"),
    "a folder with a new line": _named("a\nb"),
    "a folder that is no text": _named(os.fsdecode(b"a\xff\xfeb")),
    "a folder with a long name": _named("x" * 200),
    "a deep folder": _named("/".join(["folder" * 10] * 12)),
}
"""Everything that is odd."""
