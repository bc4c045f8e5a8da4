"""`--nproc N`: the same command in N processes on this machine, by torchrun, ending as one process would.

torchrun itself makes exit code 1 of every other and tells of it at length. So the processes write down how they ended,
and this one hands it on.
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
"""Name of the environment variable that holds the folder in which processes write down how they ended."""

# Raised by all processes at once, after they have agreed and saved: no reason for torchrun to end the others.
_AGREED = (75, 130, 143)

LOST = "another process of this training has ended, and this one with it; the same command goes on"
"""What a process says that was left alone; whoever started it knows more, and speaks instead."""


STUCK: list[str] = []
"""Names of trackers that never answered. What they began may keep a process from ending; see `lgkd.cli.main`."""


class Relayed(Exception):
    """The processes are done; the command ends with their exit code.

    Attributes:
        code: the exit code.
        message: what is left to be said, or None.
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
        InputError: no number of processes, or another one than there are already.
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
        # torchrun would choose one thread, and say so in six lines.
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

    # What went wrong is told by the processes themselves. Some of torch's loggers have a level of their own.
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
    """torchrun passes on the signals that end a process, but not the one that batch systems send ahead of them."""

    def tell(number: int, _frame: FrameType | None) -> None:
        for file in ends.glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), number)

    try:
        former = signal.signal(signal.SIGUSR1, tell)
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
    # Code 1 of the first process may be what comes of another one's end.
    first, said = found.get(0, (0, ""))
    if first > 1:
        return Relayed(first)  # what it had to say, it said
    for rank, (code, message) in found.items():
        if rank > 0 and message != LOST and (code > first or (code and said == LOST)):
            return Relayed(code, f"process {rank}: {message}")
    if first and said != LOST:
        return Relayed(first)
    if stopped is not None and len(found) < processes:
        when = "before the step was done; the same command goes on from the last checkpoint" if found else ""
        name = signal.Signals(stopped).name
        return Relayed(128 + stopped, f"stopped by {name} {when or 'before the training began'}")
    if len(found) == processes:
        return Relayed(first, said or None)
    codes = {rank: (failed or {}).get(rank) for rank in range(processes) if rank not in found}
    # Once one has ended, torchrun stops the others by this signal.
    causes = {rank: code for rank, code in codes.items() if code is not None and code != -signal.SIGTERM} or codes
    how = [_ending(rank, code) for rank, code in causes.items()]
    return Relayed(1, f"{'; '.join(how)}. The same command resumes the run from its last checkpoint")


def _ending(rank: int, code: int | None) -> str:
    """Describe the end of a process that reported nothing, by its exit code."""
    if code is None or code >= 0:
        return f"process {rank} ended without a word{'' if code is None else f' (exit code {code})'}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return f"process {rank} was killed ({name}), perhaps for want of memory"
    if name == "SIGABRT":
        return f"process {rank} was aborted ({name}) by a library such as gloo, NCCL or CUDA; the lines above say why"
    return f"process {rank} was ended by {name}; the lines above may say why"


def begin() -> None:
    """To be called by a process when it starts: tells its number, and sees to it that it does not outlive the rest."""
    if (folder := os.environ.get(ENDS)) is None:
        return
    with suppress(OSError):
        (Path(folder) / f"{os.environ.get('RANK', '0')}.pid").write_text(str(os.getpid()))
    if sys.platform == "linux":
        import ctypes

        # prctl(PR_SET_PDEATHSIG): a signal when the starter is killed and cannot send one.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def end(code: int, message: str) -> int:
    """To be called by a process when it ends: writes down how; returns the exit code for torchrun."""
    if (folder := os.environ.get(ENDS)) is None:
        return code
    with suppress(OSError):
        (Path(folder) / f"{os.environ.get('RANK', '0')}.end").write_text(f"{code}\n{message}", encoding="utf-8")
    return 0 if code in _AGREED else code


def is_first() -> bool:
    """Whether this process is the one that shows and prints for all."""
    try:
        return place().rank == 0
    except InputError:  # a contradictory environment is told of by whoever finds it
        return True


def speaks(code: int, message: str = "") -> bool:
    """Whether this process prints the error that it ends with, so that one of several does."""
    if message == LOST and ENDS in os.environ:
        return False
    if is_first():
        return True
    # Without our starter nobody else would tell of what went wrong here alone.
    return ENDS not in os.environ and code not in (*_AGREED, 4)
