"""Make a run bitwise reproducible.

On a CPU it does, at an equal number of threads. On a GPU some sums are taken in whatever order their parts arrive,
unless torch is told not to; that costs time, and a few operations have no other way.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lgkd.errors import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACE = ":4096:8"
"""One of the two settings with which cuBLAS promises the same bits again (its manual, "Results reproducibility")."""


def remark(device: str, *, deterministic: bool) -> str | None:
    """Return a message for the user before a run on a device, or None."""
    if torch.device(device).type != "cuda" or deterministic:
        return None
    return "runs on CUDA are not repeatable bit for bit; --deterministic makes them so, and slower"


@contextmanager
def exactly(device: str, *, deterministic: bool) -> Iterator[None]:
    """Have torch use deterministic algorithms while this is entered; afterwards all is as it was.

    To be entered before anything is multiplied on the GPU. On a CPU nothing is changed.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        deterministic: False: do nothing.

    Raises:
        InputError: an operation of the run has no deterministic algorithm; it is named.
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
