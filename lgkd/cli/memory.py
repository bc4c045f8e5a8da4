"""The sentence about a lack of memory, and the start of torch under a tight limit. No torch in here."""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ENOUGH = 16 * 2**30
"""Bytes of addresses with which torch can be loaded whatever comes with it."""


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
