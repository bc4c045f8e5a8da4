"""Compile the step of a training, and replay it as CUDA graphs on a GPU."""

import logging
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from lgkd.errors import InputError
from lgkd.training.compile_blocks import CompiledBlocks

_WORTH_COMPILING = 4_000_000
_WORTH_COMPILING_BLOCKS = 1_000_000

Compile = bool | Literal["blocks"]
"""Compiled part of a step: nothing (False), all models and losses (True), or the repeated blocks of the student."""


def hide_missing_runtime() -> None:
    """Hide torch's line "No CUDA runtime is found, using CUDA_HOME=...", and no other.

    Torch logs it when it first compiles on a machine that has nvcc but no driver. The training is on the CPU anyway.
    """
    log = logging.getLogger("torch.utils.cpp_extension")
    if _is_of_use not in log.filters:
        log.addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("No CUDA runtime is found")


def cpp_compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile would call for a CPU; None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


def choose_compile(
    wanted: Compile | None, device: str, images: int, *, cuda_graphs: bool = False, has_blocks: bool = False
) -> Compile:
    """Choose what is compiled of a training of `images` (epochs times images), unless the user decides.

    Compiling a whole step takes a minute or two. On a GPU that is taken to pay off after some millions of images, and
    blocks, of which one is compiled for all, after a quarter of that: both numbers are estimates. On a CPU it depends
    on the model: there it is chosen only for a training by `--time`, whose steps are timed in both ways.

    Args:
        wanted: None to choose.
        device, images: of the training.
        cuda_graphs: whether the whole compiled step is to be recorded.
        has_blocks: whether the model has repeated blocks (`repeated_blocks`).

    Raises:
        InputError: CUDA graphs are requested but not available, or blocks of a model without repeated ones.
    """
    on_gpu = torch.device(device).type == "cuda"
    if cuda_graphs and (not on_gpu or wanted is False or wanted == "blocks"):
        reason = f"the device is {device}"
        if on_gpu:
            reason = "the step is not compiled (--no-compile)"
        if on_gpu and wanted == "blocks":
            reason = "only blocks are compiled (--compile blocks)"
        raise InputError(
            f"--cuda-graphs replays the compiled step as a recording on a CUDA device, but {reason}; leave one of the "
            "two out"
        )
    if wanted == "blocks" and not has_blocks:
        raise InputError(
            "--compile blocks compiles one transformer block for all that are equal, and this model has no two of "
            "them; use --compile whole"
        )
    if wanted is not None or cuda_graphs:
        return wanted or cuda_graphs
    if on_gpu and images >= _WORTH_COMPILING:
        return True
    return "blocks" if on_gpu and has_blocks and images >= _WORTH_COMPILING_BLOCKS else False


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
    many if `accumulate` does not divide the batch. Blocks take one graph for each kind of them, of which there are two
    at most, whatever the terms, and as many more with masked images, which have fewer tokens. A step that ran out of
    memory adds those of the smaller pieces. Evaluation is not compiled.

    Args:
        blocks: compiled instead of the whole step.

    Attributes:
        graphs: taken so far, as (images, active terms); for blocks as (images, kind).
    """

    def __init__(self, blocks: CompiledBlocks | None = None) -> None:
        self.graphs: set[tuple[int, tuple[str, ...]]] = set()
        self._blocks = blocks
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
        if self._blocks is not None:
            if images not in self._sizes:
                return nullcontext()
            self.graphs |= {(images, (f"block {kind}",)) for kind in range(self._blocks.kinds)}
            return self._blocks.running()
        if images not in self._sizes:
            eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
            return eager
        self.graphs.add((images, self._active))
        return nullcontext()
