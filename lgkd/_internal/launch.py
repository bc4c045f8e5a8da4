"""Launch `--nproc N`: the same command in N processes on this machine by torchrun, ending as one process would.

torchrun itself turns every other exit code into 1 and reports it at length. So the processes record how they ended,
and this one reports it.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from lgkd._internal.distributed import EXPECTED, place
from lgkd.errors import InputError

ENDS = "LGKD_ENDS"
"""Name of the environment variable that holds the folder in which processes record how they ended."""

# Raised by all processes at once, after they have agreed and saved: torchrun need not end the others.
_AGREED = (75, 130, 143)

LOST = "another process of this training has ended, and this one with it; run the same command again to resume"
"""Message of a worker that lost its peers; the launcher reports the cause."""


STUCK: list[str] = []
"""Names of trackers that never answered. Their threads may keep a process from ending; see `lgkd.cli.main`."""

IN_MAIN: list[bool] = []
"""Not empty while `lgkd.cli.main` runs: the process was started for its command, and is as old as that."""


class Relayed(Exception):
    """Raised when the processes have ended; the command ends with their exit code.

    Attributes:
        code: the exit code.
        message: the remaining message, or None.
    """

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(message or "")
        self.code, self.message = code, message


def share(processes: int | None, arguments: Sequence[str]) -> None:
    """Run the command in so many processes, and end with `Relayed`; return at once where this is to be one of them.

    Args:
        processes: the value of `--nproc`; None: not given.
        arguments: as typed, without the program's name.

    Raises:
        Relayed: it was run.
        InputError: an invalid number of processes, or another one than are running already.
    """
    if processes is None:
        return
    if processes < 1:
        raise InputError(f"--nproc is {processes}, expected at least 1")
    if "WORLD_SIZE" in os.environ or place().count > 1:
        if place().count != processes:
            raise InputError(
                f"--nproc is {processes}, but this is one of {place().count} processes that something else has "
                "started; leave --nproc out"
            )
        return
    if processes > 1:
        raise _run(processes, _without_nproc(arguments))


def _without_nproc(arguments: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word == "--nproc":
            skip = True
        elif not word.startswith("--nproc="):
            kept.append(word)
    return kept


def _run(processes: int, arguments: Sequence[str]) -> Relayed:
    with tempfile.TemporaryDirectory(prefix="lgkd-ends-") as name:
        ends = Path(name)
        threads = str(max(1, (os.cpu_count() or 1) // processes))
        ours = {ENDS: name, EXPECTED: str(processes)}
        # torchrun would choose one thread, and report it in six lines.
        ours |= {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
        before = {key: os.environ.get(key) for key in ours}
        os.environ.update(ours)
        try:
            stopped, failed = _torchrun(processes, arguments, ends)
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        return _what_came(ends, processes, stopped, failed)


def _torchrun(processes: int, arguments: Sequence[str], ends: Path) -> tuple[int | None, dict[int, int]]:
    """Start the processes and wait for their end.

    Returns:
        The signal that stopped this process, if any did, and the exit codes of processes that failed, by rank; those
        of signals are negative.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The processes themselves report their errors. Some of torch's loggers have a level of their own.
    for name in ("torch.distributed", *logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    words = ["--standalone", f"--nproc-per-node={processes}", "-m", "lgkd", *arguments]
    with _passing_on(ends):
        try:
            run(parse_args(words))  # type: ignore[no-untyped-call, unused-ignore]
        except SignalException as error:
            return int(error.sigval), {}
        except ChildFailedError as error:
            return None, {rank: failure.exitcode for rank, failure in error.failures.items()}
    return None, {}


@contextmanager
def _passing_on(ends: Path) -> Iterator[None]:
    """Forward the signal that batch systems send in advance; torchrun itself forwards only those that end a process."""

    def forward(number: int, _frame: FrameType | None) -> None:
        for file in ends.glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), number)

    try:
        former = signal.signal(signal.SIGUSR1, forward)
    except (AttributeError, ValueError):  # no such signal on this system, or not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, former)


def _what_came(ends: Path, processes: int, stopped: int | None, failed: Mapping[int, int] | None = None) -> Relayed:
    found: dict[int, tuple[int, str]] = {}
    for rank in range(processes):
        with suppress(OSError, ValueError):
            number, _, rest = (ends / f"{rank}.end").read_text(encoding="utf-8").partition("\n")
            found[rank] = int(number), rest
    # Code 1 of the first process may result from another one's end.
    first, said = found.get(0, (0, ""))
    if first > 1:
        return Relayed(first)  # it has printed its own message
    for rank, (code, message) in found.items():
        if rank > 0 and message != LOST and (code > first or (code and said == LOST)):
            return Relayed(code, f"process {rank}: {message}")
    if first and said != LOST:
        return Relayed(first)
    if stopped is not None and len(found) < processes:
        when = "before the step was done; run the same command again to resume from the checkpoint" if found else ""
        name = signal.Signals(stopped).name
        return Relayed(128 + stopped, f"stopped by {name} {when or 'before the training began'}")
    if len(found) == processes:
        return Relayed(first, said or None)
    codes = {rank: (failed or {}).get(rank) for rank in range(processes) if rank not in found}
    # Once one has ended, torchrun stops the others by this signal.
    causes = {rank: code for rank, code in codes.items() if code is not None and code != -signal.SIGTERM} or codes
    how = [describe_end(f"process {rank}", code) for rank, code in causes.items()]
    return Relayed(1, f"{'; '.join(how)}. Run the same command again to resume from the last checkpoint")


def describe_end(who: str, code: int | None) -> str:
    """Describe the end of a process that reported nothing, by its name and its exit code."""
    if code is None or code >= 0:
        return f"{who} ended without a message{'' if code is None else f' (exit code {code})'}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return f"{who} was killed ({name}), perhaps for lack of memory"
    if name == "SIGABRT":
        return f"{who} was aborted ({name}) by a library such as gloo, NCCL or CUDA; the lines above say why"
    return f"{who} was ended by {name}; the lines above may say why"


def begin() -> None:
    """Record the number of a starting process, and ensure that it does not outlive the others."""
    if (folder := os.environ.get(ENDS)) is None:
        return
    with suppress(OSError):
        (Path(folder) / f"{os.environ.get('RANK', '0')}.pid").write_text(str(os.getpid()))
    end_with_starter(signal.SIGTERM)


def end_with_starter(number: int) -> None:
    """Have Linux send this process a signal when its starter is killed and cannot send one."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG


def end(code: int, message: str) -> int:
    """Record how a process ended; return the exit code for torchrun."""
    if (folder := os.environ.get(ENDS)) is None:
        return code
    with suppress(OSError):
        (Path(folder) / f"{os.environ.get('RANK', '0')}.end").write_text(f"{code}\n{message}", encoding="utf-8")
    return 0 if code in _AGREED else code


def is_first() -> bool:
    """Return true if this process shows and prints for all."""
    try:
        return place().rank == 0
    except InputError:  # a contradictory environment is reported where it is read
        return True


def speaks(code: int, message: str = "") -> bool:
    """Return true if this process prints the error that it ends with, so that one of several does."""
    if message == LOST and ENDS in os.environ:
        return False
    if is_first():
        return True
    # Without our launcher no other process would report an error that occurred here alone.
    return ENDS not in os.environ and code not in (*_AGREED, 4)
