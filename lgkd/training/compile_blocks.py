"""Compile one transformer block for all alike, so that a short training need not compile its whole step.

The blocks of a transformer repeat: compiled code of one serves all whose parts and sizes are equal. Hooks on a block
stay outside of its compiled part.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from lgkd.models.default_taps import block_names

_MOST_KINDS = 2


class SharedDropPath(nn.Module):
    """Drop branches of images as timm's `DropPath` does, with the share that is kept as a tensor.

    A number would become part of the compiled code, which blocks of different rates could not share.

    Args:
        rate: share of the images whose branch is dropped in training, 0 to 1.
        scale: divide by the share that is kept.
        device: of the images.
    """

    kept: Tensor

    def __init__(self, rate: float, *, scale: bool, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("kept", torch.tensor(1.0 - rate, device=device), persistent=False)
        self.scale = scale and rate < 1.0

    def forward(self, branch: Tensor) -> Tensor:
        """Return (B,...) with whole images set to 0."""
        if not self.training:
            return branch
        shape = (len(branch), *[1] * (branch.ndim - 1))
        # Uniform numbers are below 1, so that a share of 1 keeps every image as it is.
        mask = (torch.rand(shape, device=branch.device) < self.kept).to(branch.dtype)
        return branch * (mask / self.kept.to(branch.dtype) if self.scale else mask)


class CompiledBlocks:
    """Run the repeated blocks of a model compiled inside `running()`; outside of it the model is as it was.

    So names of weights, copies of the model and evaluation see plain modules. At most two kinds of blocks are compiled,
    those that are repeated most; a kind has one graph for each size of batch. A block with hooks on a layer inside it
    is left out: code that is shared would not call them.

    Args:
        model: whose blocks are found as for its default taps.
        backend: of torch.compile.

    Attributes:
        kinds: number of different blocks that are compiled.
        blocks: names of the compiled blocks.
    """

    def __init__(self, model: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> None:
        found = {name: model.get_submodule(name) for name in repeated_blocks(model)}
        self.blocks = list(found)
        self.kinds = len({_kind(block) for block in found.values()})
        # One wrapper for all: torch finds the code of a block by the block's parts, not by which block it is.
        run = torch.compile(_forward, dynamic=False, backend=backend)
        self._forwards = [(block, _bound(run, block)) for block in found.values()]
        self._drops = [swap for block in found.values() for swap in _shared_drops(block, found.values())]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the blocks run compiled inside the context."""
        for block, forward in self._forwards:
            block.forward = forward
        for parent, name, _, shared in self._drops:
            parent._modules[name] = shared.train(parent.training)
        try:
            yield
        finally:
            for parent, name, own, _ in self._drops:
                parent._modules[name] = own
            for block, _ in self._forwards:
                del block.forward


def repeated_blocks(model: nn.Module) -> list[str]:
    """Return the names of the blocks that can share compiled code, in order: of at most two kinds, each used twice."""
    blocks = {name: model.get_submodule(name) for name in block_names(model)}
    plain = {name: block for name, block in blocks.items() if not _has_inner_hooks(block)}
    counts = Counter(_kind(block) for block in plain.values())
    chosen = [kind for kind, count in counts.most_common(_MOST_KINDS) if count > 1]
    return [name for name, block in plain.items() if _kind(block) in chosen]


def _forward(block: nn.Module, *arguments: Any, **named: Any) -> Any:
    return type(block).forward(block, *arguments, **named)


def _bound(run: Callable[..., Any], block: nn.Module) -> Callable[..., Any]:
    def forward(*arguments: Any, **named: Any) -> Any:
        # Tokens that are a transposed map, as some models give to their first block, would take another graph.
        laid = (one.contiguous() if isinstance(one, Tensor) and one.ndim == 3 else one for one in arguments)
        return run(block, *laid, **named)

    return forward


def _kind(block: nn.Module) -> tuple[str, ...]:
    """Return what has to be equal for two blocks to share compiled code; rates of stochastic depth may differ."""
    parts = [
        f"{name} {type(module).__name__} {module.extra_repr()}"
        for name, module in block.named_modules()
        if not _is_drop(name, module)
    ]
    return (*parts, *(f"{name} {tuple(weight.shape)}" for name, weight in block.named_parameters()))


def _is_drop(name: str, module: nn.Module) -> bool:
    return isinstance(module, DropPath) or (isinstance(module, nn.Identity) and "drop_path" in name)


def _shared_drops(block: nn.Module, blocks: Any) -> list[tuple[nn.Module, str, nn.Module, SharedDropPath]]:
    """Return (parent, name, module, replacement) of a block's stochastic depth, where any block of the model has it."""
    if not any(isinstance(module, DropPath) and module.drop_prob for one in blocks for module in one.modules()):
        return []
    device = next(block.parameters(), torch.zeros(())).device
    swaps = []
    for name, module in block.named_modules():
        if _is_drop(name, module):
            rate, scale = float(getattr(module, "drop_prob", 0.0) or 0.0), bool(getattr(module, "scale_by_keep", True))
            parent, _, last = name.rpartition(".")
            swaps.append((block.get_submodule(parent), last, module, SharedDropPath(rate, scale=scale, device=device)))
    return swaps


def _has_inner_hooks(block: nn.Module) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in block.modules()
        if module is not block
    )
