"""Compile the step of a training, and replay it as CUDA graphs on a GPU."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lgkd.errors import InputError

_WORTH_COMPILING = 4_000_000


def choose_compile(wanted: bool | None, device: str, images: int, *, cuda_graphs: bool = False) -> bool:
    """Choose whether to compile a training of `images` (epochs times images), unless the user decides.

    Compiling takes a minute or two. On a GPU that pays off after some millions of images; on a CPU hardly ever.

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


class CompiledSizes:
    """Bound the graphs of a compiled training: only the micro-batches of a full batch run compiled, others eagerly.

    Compiling takes a minute or two, and a graph is for one size. Without a bound the short last batch of an epoch would
    take one more for every set of terms. So a training takes one graph, and one more when a term has ended; twice as
    many if `accumulate` does not divide the batch. A step that ran out of memory adds those of the smaller pieces.
    Evaluation is not compiled.

    Attributes:
        graphs: taken so far, as (images, active terms).
    """

    def __init__(self) -> None:
        self.graphs: set[tuple[int, tuple[str, ...]]] = set()
        self._largest = 0
        self._sizes: set[int] = set()
        self._active: tuple[str, ...] = ()

    def begin(self, images: int, pieces: int, active: tuple[str, ...]) -> None:
        """Note a step: the images of the batch, its micro-batches, and the terms that are computed."""
        self._active = active
        if images >= self._largest:
            self._largest = images
            self._sizes = {images // pieces, -(-images // pieces)}

    def run(self, images: int) -> AbstractContextManager[object]:
        """Return the context in which a micro-batch runs."""
        if images not in self._sizes:
            eagerly: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
            return eagerly
        self.graphs.add((images, self._active))
        return nullcontext()
