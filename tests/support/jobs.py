"""Functions that worker processes call in tests, and a program that trains such jobs and can be killed."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lgkd.errors import InputError, Interrupted
from lgkd.runner.options import Options
from lgkd.runner.workers import Send
from lgkd.training.callbacks import EpochRow

HERE = "tests.support.jobs"


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until something is so; with patience, since machines are busy."""
    deadline = time.monotonic() + 600
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def describe(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Tell about the process, and call every callback."""
    print("a library prints this")
    warnings.warn("an unusual thing", stacklevel=1)
    (watcher,) = callbacks["watchers"]
    watcher.on_start(2, 5)
    watcher.on_step(0, 1, {"loss": 0.1}, 10.0)
    watcher.on_resume([EpochRow(1, 0.5, {"loss": 1.0, "accuracy": 0.5})])
    watcher.on_epoch(EpochRow(2, 0.1 + 0.2, {"loss": float("nan"), "accuracy": 1.0}, {"test_top1": 1 / 3}))
    callbacks["say"]("a remark")
    return {
        "top1": 0.1 + 0.2,
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "path": sys.path,
        **arguments,
    }


def identify(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Tell which process this is."""
    return {"top1": 0.0, "pid": os.getpid()}


def meet(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """End once another job has begun: only where both run at a time."""
    Path(arguments["mine"]).touch()
    wait_for(Path(arguments["other"]).exists)
    return {"top1": 0.0}


def copy_of(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Read a file, and write another."""
    text = Path(arguments["reads"]).read_text() if "reads" in arguments else ""
    Path(arguments["writes"]).write_text(text + arguments["adds"])
    return {"top1": 0.0}


def refuse(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Raise an error of lgkd."""
    if "after" in arguments:
        wait_for(Path(arguments["after"]).exists)
    raise InputError("the dog is a cat, expected a dog; choose another")


def crash(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Raise an error that nobody foresaw."""
    raise KeyError("colour")


def die(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """End as a process does that Linux kills for lack of memory."""
    sys.stderr.write("last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def train_until_stopped(arguments: dict[str, Any], callbacks: Options) -> dict[str, Any]:
    """Train until a signal comes, as a training does: finish the step, save, end."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    Path(arguments["began"]).write_text(str(os.getpid()))
    (watcher,) = callbacks["watchers"]
    watcher.on_start(1, 1)
    wait_for(lambda: bool(seen))
    if not arguments.get("deaf"):
        Path(arguments["saved"]).write_text(str(seen))
        raise Interrupted("stopped by SIGINT and saved", signal.SIGINT)
    time.sleep(600)
    return {"top1": 0.0}


def interrupt(arguments: Any, send: Send) -> None:
    """Be stopped by the keyboard."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    from lgkd.runner.jobs import Job
    from lgkd.runner.side_by_side import train_jobs

    folder, deaf = Path(sys.argv[1]), sys.argv[2] == "deaf"
    train_jobs(
        [
            Job(
                name,
                name,
                f"{HERE}:train_until_stopped",
                {"began": str(folder / f"{name}.began"), "saved": str(folder / f"{name}.saved"), "deaf": deaf},
            )
            for name in ("a", "b")
        ],
        workers=2,
    )
