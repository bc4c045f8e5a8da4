"""Errors that are a lack of memory, by whatever name Python, torch or a loader reports it. No torch in here."""

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# torch on a CPU, the C++ library, numpy and BLAS, CUDA's libraries; the loader of shared libraries gives no reason
# where an address-space limit stops it, and another one where a disk forbids to run what lies on it.
_SAYS = re.compile(
    r"can't allocate memory|std::bad_alloc|Cannot allocate memory|[Uu]nable to allocate|out of memory|_ALLOC_FAILED|"
    r"can't start new thread|failed to map segment from shared object(?!: Operation not permitted)"
)
_KINDS = (MemoryError.__name__, "OutOfMemoryError")

_ENOUGH = 16 * 2**30
"""Bytes of addresses with which torch can be loaded whatever comes with it."""


def lack_of_memory(error: BaseException) -> str | None:
    """The words of the first error behind this one that says that memory ran out; None where none does."""
    for one in _behind(error):
        text = " ".join(str(one).split())[:300]
        if type(one).__name__ in _KINDS or isinstance(one, MemoryError):
            return text or type(one).__name__
        if isinstance(one, OSError) and one.errno == errno.ENOMEM:
            return text
        if isinstance(one, RuntimeError | ImportError | ValueError | SystemError) and _SAYS.search(text):
            return text
    return None


def told(words: str, *, trains: bool) -> str:
    """The sentence about it.

    Args:
        words: of the error.
        trains: whether the command has a batch size.
    """
    limit = address_limit()
    if limit is not None:
        advice = f"this process may use {limit / 2**20:,.0f} MiB of addresses: raise that limit (ulimit -v)"
        return f"not enough memory ({words}); {advice}{', or use a smaller --batch-size' if trains else ''}"
    if trains:
        return f"not enough memory ({words}); use a smaller --batch-size, or --set accumulate=2"
    return f"not enough memory ({words}); end other programs, or use a machine that has more"


def address_limit() -> int | None:
    """The bytes of addresses that this process may use (`ulimit -v`), where somebody has set a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def try_torch_first() -> None:
    """Under a tight limit, load torch in another process before it is loaded in this one.

    C++ ends a process where a library's own start finds no memory, so that here nothing could be told of it.
    """
    limit = address_limit()
    if limit is not None and limit < _ENOUGH and hasattr(os, "fork") and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Tries())


class _Tries(MetaPathFinder):
    """Finds no module; before the first import of torch it sees whether that would be survived."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == "torch":
            sys.meta_path.remove(self)
            if os.WIFSIGNALED(_status_of_a_try()):
                raise MemoryError("torch cannot be loaded")
        return None


def _status_of_a_try() -> int:
    child = os.fork()
    if child == 0:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            import torch  # noqa: F401
        finally:  # whatever Python can tell of, it tells in the process that goes on
            os._exit(0)
    return os.waitpid(child, 0)[1]


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what was being handled then."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [more for more in (one.__cause__, one.__context__) if more is not None]
