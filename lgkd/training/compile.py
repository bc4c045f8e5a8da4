"""Compile the step of a training, and replay it as CUDA graphs on a GPU."""

import os
import shutil

import torch
from torch import nn

from lgkd.errors import InputError

_WORTH_COMPILING = 4_000_000


def cpp_compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile would call for a CPU; None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


def choose_compile(wanted: bool | None, device: str, images: int, *, cuda_graphs: bool = False) -> bool:
    """Choose whether to compile a training of `images` (epochs times images), unless the user decides.

    Compiling takes a minute or two. On a GPU that pays off after some millions of images. On a CPU it depends on the
    model: there it is chosen only for a training by `--time`, whose steps are timed in both ways.

    Raises:
        InputError: CUDA graphs are requested but not available.
    """
    on_gpu = torch.device(device).type == "cuda"
    if cuda_graphs and (not on_gpu or wanted is False):
        reason = "the step is not compiled (--no-compile)" if on_gpu else f"the device is {device}"
        raise InputError(
            f"--cuda-graphs replays the compiled step as a recording on a CUDA device, but {reason}; leave one of the "
            "two out"
        )
    if wanted is not None or cuda_graphs:
        return bool(wanted) or cuda_graphs
    return on_gpu and images >= _WORTH_COMPILING


def compile_task(task: nn.Module, *, cuda_graphs: bool) -> None:
    """Compile all models and losses of a task as one graph, in place: names of weights stay the same.

    Batches of different sizes are compiled separately.

    Args:
        task: compiled at its next call.
        cuda_graphs: record the compiled step once and replay its kernels without the host. The results of a step are
            then overwritten by the next one, so copy them to keep them.
    """
    if cuda_graphs:
        task.compile(dynamic=False, mode="reduce-overhead")
    else:
        task.compile(dynamic=False)
