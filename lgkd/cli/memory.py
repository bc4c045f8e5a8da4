"""Report a lack of memory, and guard the import of torch under a tight limit. No torch in here."""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ENOUGH = 16 * 2**30
"""Bytes of address space with which torch can be loaded in any build."""


def describe_shortage(words: str, *, trains: bool) -> str:
    """Describe a lack of memory, with advice.

    Args:
        words: of the error.
        trains: whether the command has a batch size.
    """
    limit = address_limit()
    if limit is not None:
        advice = f"this process may use {limit / 2**20:,.0f} MiB of address space: raise that limit (ulimit -v)"
        return f"not enough memory ({words}); {advice}{', or use a smaller --batch-size' if trains else ''}"
    if trains:
        return f"not enough memory ({words}); use a smaller --batch-size, or --set accumulate=2"
    return f"not enough memory ({words}); close other programs, or use a machine with more"


def address_limit() -> int | None:
    """Return the bytes of address space that this process may use (`ulimit -v`), where a limit is set."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def try_torch_first() -> None:
    """Under a tight limit, load torch in another process before it is loaded in this one.

    C++ aborts the process where a library's start runs out of memory, so that no message could be printed here.
    """
    limit = address_limit()
    if limit is not None and limit < _ENOUGH and hasattr(os, "fork") and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Tries())


class _Tries(MetaPathFinder):
    """Find no module; before the first import of torch, check in another process that it survives."""

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
        finally:  # errors in Python are reported by the parent process
            os._exit(0)
    return os.waitpid(child, 0)[1]
