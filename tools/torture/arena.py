"""Where torture happens: a store with a small teacher, one command, and what it comes to when nobody disturbs it."""

import hashlib
import io
import itertools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from lgkd.runs.folder import read_metrics
from lgkd.training.checkpointer import SECONDS_VARIABLE
from tests.support.costs import is_cost
from tests.support.small import World, make_world
from tools.torture.parts import expect

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TOKEN = "LGKD_TORTURE"
PATIENCE = 240.0
"""Seconds after which a command counts as hanging; a busy machine is slow to import torch."""

EPOCHS, STEPS = 24, 12
TEACHER = ["train-teacher", "resnet8", "digits", "--epochs", "1", "--image-size", "8", "--batch-size", "64"]
STUDENT = ["--student", "deit_tiny", "--student-option", "patch_size=2", "--student-option", "depth=3"]
STUDENT += ["--student-option", "embed_dim=16", "--student-option", "num_heads=2"]
RUN = ["--teacher", "resnet8", "--dataset", "digits", "--images-per-class", "40", "--recipe", "quickstart"]
RUN += ["--device", "cpu", "--epochs", str(EPOCHS), "--quiet"]
for _change in ("ema.decay=0.9", "mix.mixup=0.8", "accumulate=2", "clip_norm=1.0", "drop_path=0.1"):
    RUN += ["--set", _change]


@dataclass
class Started:
    """A command under way, with all its processes."""

    process: subprocess.Popen[bytes]
    token: str
    errors: Path

    def alive(self) -> dict[int, dict[str, str]]:
        """Every process of the command, the starter included, with what its environment was when it began."""
        found = {}
        mark = f"{TOKEN}={self.token}"
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal():
                    words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                    # A dead process that nobody has asked after has an empty environment.
                    if mark in words:
                        found[int(folder.name)] = dict(word.split("=", 1) for word in words if "=" in word)
        return found

    def kill_all(self) -> None:
        """SIGKILL to every process of the command, as nearly at once as can be; returns when all are gone."""
        for number in sorted(self.alive()):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()
        # Only the starter can be waited for: what it left behind dies as soon as the kernel gets round to it.
        end = time.monotonic() + 10
        while self.alive() and time.monotonic() < end:
            time.sleep(0.005)

    def wait_for(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Whether it came true before the command ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.003)
        return condition()

    def said(self) -> str:
        """What it has written to its standard error."""
        return self.errors.read_text(errors="replace")

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the command's end and for that of its processes; returns its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            expect(False, f"still there after {seconds:g} s: {self.said()[-300:]}")
        self.expect_no_orphans()
        expect("Traceback" not in self.said(), f"a traceback: {self.said()[-1500:]}")
        return code

    def expect_no_orphans(self, seconds: float = 30.0) -> None:
        """Lose the trial if a process outlives the starter for long."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.05)
        left = self.alive()
        if left:
            self.kill_all()
        expect(not left, f"{len(left)} processes were left {seconds:g} s after the starter's end")


class Arena:
    """A folder in which commands are run.

    Args:
        root: an empty folder; everything lies below it.
        world: pictures, a teacher and finished runs; by default made when they are first asked for.
    """

    def __init__(self, root: Path, world: World | None = None) -> None:
        self.root = root
        self._world = world
        self._numbers = itertools.count(1)
        self.reference = cache(self._reference)
        root.mkdir(parents=True, exist_ok=True)

    @cached_property
    def world(self) -> World:
        """Pictures, a teacher of them, a guided and an unguided run; nothing in it is to be changed."""
        if self._world is not None:
            return self._world
        (self.root / "world").mkdir()
        with redirect_stdout(io.StringIO()):
            return make_world(self.root / "world")

    def new(self, name: str) -> Path:
        """A folder's name that nothing lies at."""
        return self.root / f"{name}-{next(self._numbers)}"

    def _teach(self) -> None:
        """The teacher of the run, in the store."""
        if not (self.root / "home" / "teachers").exists():
            taught = self.start_words([*TEACHER, "--quiet", "--device", "cpu", "--out", str(self.root / "teacher")])
            assert taught.end() == 0, taught.said()

    def start(
        self, out: Path, *more: str, processes: int = 1, student: Sequence[str] = STUDENT, **environment: str
    ) -> Started:
        """Begin or go on with the run in a folder: always the same command."""
        self._teach()
        several = ["--nproc", str(processes)] if processes > 1 else []
        return self.start_words(["distill", *student, *RUN, *more, "--out", str(out), *several], **environment)

    def start_words(
        self, words: Sequence[str], *, at: Path = CHECKOUT, through: Sequence[str] = (), **environment: str | None
    ) -> Started:
        """Begin a command of lgkd, in a process group of its own.

        Args:
            words: as typed, without the program's name.
            at: the working folder.
            through: a command that starts the one given to it, such as `nice`.
            environment: put over the torture's own; None takes a variable away.
        """
        token = secrets.token_hex(8)
        errors = self.root / f"{token}.err"
        kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        ours = {
            "LGKD_HOME": str(self.root / "home"),
            "LGKD_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(CHECKOUT),
            SECONDS_VARIABLE: "0.25",
            TOKEN: token,
        }
        given = {name: value for name, value in (kept | ours | environment).items() if value is not None}
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", "lgkd", *words],
                cwd=at,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )
        return Started(process, token, errors)

    def finish(self, out: Path, *more: str, processes: int = 1, **environment: str) -> dict[str, str]:
        """Let the run in a folder come to its end; what it has come to."""
        started = self.start(out, *more, processes=processes, **environment)
        code = started.end()
        expect(code == 0, f"undisturbed, it ended with {code}: {started.said()[-600:]}")
        return outcome(out)

    def _reference(self, processes: int = 1, threads: int = 1) -> dict[str, str]:
        return self.finish(self.new("undisturbed"), processes=processes, OMP_NUM_THREADS=str(threads))


def newest(out: Path) -> int:
    """Steps that the newest checkpoint in a run's folder has; 0 without any."""
    return max((int(path.name[5:]) for path in (out / "checkpoint").glob("step-????????")), default=0)


def outcome(out: Path) -> dict[str, str]:
    """What a finished run comes to: hashes of what was kept and of the student, and the rows of metrics less times."""
    folder = out / "checkpoint" / f"step-{newest(out):08d}"
    files = [*sorted(folder.glob("*.safetensors")), out / "student.safetensors"]
    found = {
        f"{path.parent.name}/{path.name}" if path.parent == folder else path.name: _hash(path.read_bytes())
        for path in files
    }
    for row in read_metrics(out):
        place = f"metrics, epoch {row['epoch']:.0f}, "
        found |= {place + key: repr(value) for key, value in row.items() if not is_cost(key)}
    return found


def expect_same(found: dict[str, str], wanted: dict[str, str], what: str = "the undisturbed run") -> None:
    """Lose the trial if anything differs to the bit."""
    differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    told = [f"{name} ({found.get(name, 'nothing')[:20]}, not {wanted.get(name, 'nothing')[:20]})" for name in differing]
    expect(not differing, f"differs from {what} in {'; '.join(told[:5])}{'; ...' if len(told) > 5 else ''}")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
