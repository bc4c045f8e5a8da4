"""Select the faster implementation of attention for a device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def quick_attention(model: nn.Module, device: str | torch.device, precision: str) -> Iterator[None]:
    """Let models of timm use the faster attention of this device inside the context.

    That is torch's fused function, except in bf16 on a CPU: there its backward pass does not use the matrix units,
    and two matrix products with a softmax between them take half the time (DeiT-Ti at 32 px, patches of 4: 196
    against 101 images a second on one thread, at 224 px 30 against 23; docs/performance.md). The results are the same
    up to rounding.
    """
    unfused = precision == "bf16" and torch.device(device).type == "cpu"
    changed = [module for module in model.modules() if unfused and getattr(module, "fused_attn", False) is True]
    for module in changed:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.fused_attn = True  # type: ignore[assignment]
