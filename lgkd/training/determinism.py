"""Make a run bitwise reproducible.

On a CPU it is, at an equal number of threads. On a GPU some sums are computed in a nondeterministic order, unless torch
uses deterministic algorithms, which are slower and missing for a few operations.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lgkd.errors import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACE = ":4096:8"
"""One of the two settings for which cuBLAS guarantees reproducible bits (its manual, "Results reproducibility")."""


def remark(device: str, *, deterministic: bool) -> str | None:
    """Return a message for the user before a run on a device, or None."""
    if torch.device(device).type != "cuda" or deterministic:
        return None
    return "runs on CUDA are not repeatable bit for bit; --deterministic makes them so, and slower"


@contextmanager
def exactly(device: str, *, deterministic: bool) -> Iterator[None]:
    """Use deterministic algorithms of torch inside the context; restore the settings on exit.

    Enter it before the first multiplication on the GPU. On a CPU nothing is changed.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        deterministic: False: do nothing.

    Raises:
        InputError: an operation of the run has no deterministic algorithm; the message names it.
    """
    if not deterministic or torch.device(device).type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    workspace = os.environ.get(WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, exact = cudnn.benchmark, cudnn.deterministic
    os.environ[WORKSPACE] = workspace or _FIXED_WORKSPACE
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = " ".join(str(error).split()).partition(",")[0]
        raise InputError(f"--deterministic: {what}; leave it out, or change what needs that operation") from error
    finally:
        cudnn.benchmark, cudnn.deterministic = benchmark, exact
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
