"""Compile the step of a training, and replay it as CUDA graphs on a GPU."""

import torch
from torch import nn

from lgkd.errors import InputError

_WORTH_COMPILING = 4_000_000


def choose_compile(wanted: bool | None, device: str, images: int, *, cuda_graphs: bool = False) -> bool:
    """Choose if a training of so many images (epochs times images) is compiled, where the user does not.

    Compiling takes a minute or two. On a GPU that pays after some millions of images; on a CPU hardly ever.

    Raises:
        InputError: recordings are asked for where there can be none.
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

    Batches that differ in size are compiled apart.

    Args:
        task: compiled at its next call.
        cuda_graphs: whether what was compiled is recorded once and replayed, kernel by kernel without the host. What
            a step returns is then overwritten by the next one, so that whoever keeps it copies it.
    """
    if cuda_graphs:
        task.compile(dynamic=False, mode="reduce-overhead")
    else:
        task.compile(dynamic=False)
