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
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN measure and choose the fastest convolution of each shape inside the context.

    A training has few shapes: full batches, the last one of an epoch, those of the evaluation. Without effect on
    a CPU, and where deterministic algorithms are required, as by `exactly` or by the user: the choice may differ
    between runs.
    """
    cudnn = torch.backends.cudnn
    if device.type != "cuda" or cudnn.deterministic or torch.are_deterministic_algorithms_enabled():
        yield
        return
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextmanager
def exactly(device: str, *, deterministic: bool) -> Iterator[None]:
    """Use deterministic algorithms of torch inside the context; restore the settings on exit.

    Enter it before the first multiplication on the GPU. On a CPU nothing is changed.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        deterministic: False: do nothing.

    Raises:
        InputError: an operation of the run has no deterministic algorithm (the message names it), or the process
            used cuBLAS before, so that its setting comes too late.
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
        if WORKSPACE in str(error):
            raise InputError(
                f"--deterministic: cuBLAS was used in this process before, without {WORKSPACE}; set "
                f"{WORKSPACE}={_FIXED_WORKSPACE} in the environment before Python starts"
            ) from error
        what = " ".join(str(error).split()).partition(",")[0]
        raise InputError(f"--deterministic: {what}; leave it out, or change what needs that operation") from error
    finally:
        cudnn.benchmark, cudnn.deterministic = benchmark, exact
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
