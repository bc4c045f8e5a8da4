"""A command of lgkd that dies as by a power cut ahead of its n-th change of some folders, in a process of its own.

    python -m tests.support.dying N FOLDER[:FOLDER...] WORD...

With N 0 it does not die. The last line of its standard error says how many changes there were.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgkd.cli import run
from lgkd.experiments.catalogue import EXPERIMENTS
from tests.support.reproducing import TINY

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PATHS = {"os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.link": 2}
"""Events of Python's audit that change a folder, and how many paths they name."""


def main(last: int, roots: Sequence[str], words: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    made = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal made
        if event == "open":
            paths = arguments[:1] if arguments[2] & _WRITING else ()
        else:
            paths = arguments[: _PATHS.get(event, 0)]
        if paths and any(_is_below(path, roots) for path in paths):
            made += 1
            if made == last:
                os.kill(os.getpid(), signal.SIGKILL)

    EXPERIMENTS["tiny"] = TINY
    sys.addaudithook(hook)
    code = run(words)
    print(f"\n{made} changes", file=sys.stderr)
    return code


def _is_below(path: Any, roots: Sequence[str]) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    place = Path(os.fsdecode(path)).absolute()
    return any(place.is_relative_to(root) or Path(root).is_relative_to(place) for root in roots)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2].split(":"), sys.argv[3:]))
