"""Drop the branches of timm's transformer blocks in fewer launches, on devices.

timm draws a mask for each branch, divides it, multiplies the branch by it and adds the product: four launches a branch.
Here the masks of a forward pass are divided together, and a branch is multiplied and added in one launch. Draws and
results are timm's up to the rounding of the last bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

_BLOCK = ("timm.models.vision_transformer", "Block")


@contextmanager
def quick_drop_path(model: nn.Module, device: str | torch.device) -> Iterator[None]:
    """Let the blocks of timm's ViT and DeiT drop their branches in fewer launches inside the context.

    Models on a CPU, and with checkpointed activations, whose blocks run twice, are left as they are.
    """
    blocks = [module for module in model.modules() if (type(module).__module__, type(module).__name__) == _BLOCK]
    drops = [
        drop
        for block in blocks
        for drop in (block.drop_path1, block.drop_path2)
        if isinstance(drop, DropPath) and drop.drop_prob and drop.scale_by_keep
    ]
    if torch.device(device).type == "cpu" or not drops or getattr(model, "grad_checkpointing", False):
        yield
        return
    masks = _Masks(drops, device)
    for block in blocks:
        block.forward = partial(_forward, block, masks)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


class _Masks:
    """Draw the masks of all branches at the first one of a forward pass.

    Args:
        drops: in the order in which they run.
    """

    def __init__(self, drops: Sequence[DropPath], device: str | torch.device) -> None:
        self._places = {id(drop): place for place, drop in enumerate(drops)}
        self._kept = [1 - drop.drop_prob for drop in drops]
        self._divisors = torch.tensor(self._kept)[:, None].to(device)
        self._drawn = torch.empty(0)

    def added(self, tokens_BND: Tensor, branch_BND: Tensor, drop: nn.Module) -> Tensor:
        """Add a branch for the images that are not dropped: (B,N,D)."""
        place = self._places.get(id(drop))
        if place is None:
            return tokens_BND + drop(branch_BND)  # type: ignore[no-any-return]
        if place == 0:
            self._drawn = branch_BND.new_empty(len(self._kept), len(branch_BND))
            for row, kept in zip(self._drawn, self._kept, strict=True):
                row.bernoulli_(kept)
            self._drawn.div_(self._divisors.to(branch_BND.dtype))
        mask = self._drawn[place][:, None, None]
        if branch_BND.dtype == tokens_BND.dtype:
            return _AddMasked.apply(tokens_BND, branch_BND, mask)  # type: ignore[no-any-return]
        return tokens_BND + branch_BND * mask


class _AddMasked(torch.autograd.Function):
    """Compute tokens + branch * mask, with one launch backward: torch's own multiplies the mask by 1 first."""

    @staticmethod
    def forward(context: Any, tokens_BND: Tensor, branch_BND: Tensor, mask_B11: Tensor) -> Tensor:
        context.save_for_backward(mask_B11)
        return torch.addcmul(tokens_BND, branch_BND, mask_B11)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask_B11,) = context.saved_tensors
        return gradients[0], gradients[0] * mask_B11, None


def _forward(block: Any, masks: _Masks, tokens_BND: Tensor, *args: Any, **options: Any) -> Tensor:
    """Compute a block of timm; (B,N,D) -> (B,N,D)."""
    if not block.training or torch.compiler.is_compiling():
        return type(block).forward(block, tokens_BND, *args, **options)  # type: ignore[no-any-return]
    tokens_BND = masks.added(
        tokens_BND, block.ls1(block.attn(block.norm1(tokens_BND), *args, **options)), block.drop_path1
    )
    return masks.added(tokens_BND, block.ls2(block.mlp(block.norm2(tokens_BND))), block.drop_path2)
