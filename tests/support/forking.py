"""Processes that begin with everything imported, so that a test of signals and deaths waits for no import.

One process imports lgkd and torch, computes nothing, and makes a copy of itself for every command that it is given: a
process of its own, with its own signals, files, exit code and end. What it is not is a new interpreter; tests of how
one starts begin theirs by `subprocess`.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import CHECKOUT


class Forked:
    """A process of a `Nursery`, as far as `subprocess.Popen` is one."""

    def __init__(self, nursery: "Nursery", pid: int, out: Path, err: Path) -> None:
        self._nursery, self.pid, self._out, self._err = nursery, pid, out, err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, that of a signal negative; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(wait=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        # It is still there, if only to be asked after: its number cannot be another's yet.
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 240.0) -> tuple[str, str]:
        """Wait for its end; what it wrote."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"still there after {timeout} s: {self._err.read_text()}"
            time.sleep(0.005)
        return self._out.read_text(), self._err.read_text()


class Nursery:
    """The process that copies itself; to be closed.

    Args:
        imports: modules to be imported first.
    """

    def __init__(self, *imports: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        self._files = tempfile.TemporaryDirectory(prefix="lgkd-nursery-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", *imports],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0

    def ask(self, **request: object) -> int | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer

    def start(self, words: Sequence[str], *, at: Path | None = None, **environment: str) -> Forked:
        """Begin `python WORDS...`: a file, `-m` and a module, or `-c` and a program.

        Args:
            words: as they would stand behind the name of the interpreter.
            at: the working folder; by default this process's.
            environment: put over this process's own as it is now.
        """
        self._count += 1
        out, err = (Path(self._files.name) / f"{self._count}.{stream}" for stream in ("out", "err"))
        pid = self.ask(
            words=list(words),
            at=str(at or Path.cwd()),
            environment={**os.environ, **environment},
            files=[str(out), str(err)],
        )
        assert pid is not None
        return Forked(self, pid, out, err)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._files.cleanup()


def _become(words: Sequence[str], at: str, environment: Mapping[str, str], files: Sequence[str]) -> int:
    """In the copy: the interpreter that was asked for; returns its exit code."""
    for place, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), place)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(at)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(words[words[0] == "-m" :])
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(words[1], {"__name__": "__main__"})
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as an interpreter would
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")  # nothing that is imported may write between them
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            pass
        else:
            code = _become(**request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
