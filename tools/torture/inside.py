"""Commands inside of this process, which has imported torch already, and what is to be said of a refusal."""

import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from lgkd.cli import run
from tests.support.small import one_thread
from tools.torture.parts import expect


@dataclass(frozen=True)
class Ended:
    """What came of a command: its exit code, what it printed, what it said on standard error, and its seconds."""

    code: int
    out: str
    said: str
    seconds: float


def command(words: Sequence[str], *, at: Path | None = None, **environment: str | None) -> Ended:
    """Run a command of lgkd.

    Args:
        words: as typed, without the program's name.
        at: the working folder; None: the present one.
        environment: put over the process's own for so long; None takes a variable away.
    """
    out, said = io.StringIO(), io.StringIO()
    begun = time.monotonic()
    with surroundings(environment, at), one_thread(), redirect_stdout(out), redirect_stderr(said):
        code = run(words)
    return Ended(code, out.getvalue(), said.getvalue(), time.monotonic() - begun)


@contextmanager
def surroundings(environment: Mapping[str, str | None], at: Path | None = None) -> Iterator[None]:
    """Variables and a working folder for so long; what is imported meanwhile is imported anew the next time."""
    before, where, path, modules = dict(os.environ), Path.cwd(), list(sys.path), set(sys.modules)
    for name, value in environment.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    os.chdir(at or where)
    try:
        yield
    finally:
        os.chdir(where)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(before)
        ours = [name for name in set(sys.modules) - modules if at is not None and _lies_in(sys.modules[name], at)]
        for name in ours:
            del sys.modules[name]


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


def expect_words(code: int, said: str, codes: Sequence[int], *words: str, lines: bool = False) -> None:
    """Lose the trial unless a command ended with one of the codes and, if not with 0, in one sentence with the words.

    Args:
        code: that it ended with.
        said: its standard error.
        codes: that are right.
        words: that a refusal must hold.
        lines: whether the sentence may be a list, as of a recipe's mistakes.
    """
    expect(code in codes, f"code {code}, expected {' or '.join(map(str, codes))}: {said[-600:]}")
    expect("Traceback" not in said and "bug in lgkd" not in said, f"a fault of its own: {said[-900:]}")
    if code:
        told = [line for line in said.splitlines() if line.startswith("lgkd: ") and "lgkd: remark: " not in line]
        expect(len(told) == 1, f"{len(told)} sentences: {said[-600:]}")
        expect(lines or said.endswith(told[0] + "\n"), f"more than a sentence: {said[-600:]}")
        missing = [word for word in words if word not in said]
        expect(not missing, f"it does not say {missing}: {said[-600:]}")
