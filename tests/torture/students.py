"""A small student in one of whose steps something happens, as the environment says; made by the command itself.

LGKD_TORTURE_FAULT=WHAT:RANK:STEP    what: nan, memory, kill, stall
"""

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.models.factory import create_student

FAULT = "LGKD_TORTURE_FAULT"
MARK = b"struck\n"
"""What is written to standard error when the fault strikes."""
FACTORY = f"{__name__}:struck"
STALL = 60.0
"""Seconds for which a stalled step sleeps."""


def struck(num_classes: int, image_size: int) -> nn.Module:
    """A DeiT of three narrow blocks for tiny images; the fault strikes in training only."""
    options = {"patch_size": 2, "depth": 3, "embed_dim": 16, "num_heads": 2}
    model = create_student("deit_tiny", num_classes=num_classes, image_size=image_size, **options)
    what, _, rest = os.environ.get(FAULT, "").partition(":")
    rank, _, step = rest.partition(":")
    if what and os.environ.get("RANK", "0") == rank:
        model.register_forward_hook(_Strike(what, int(step)))
    return model


class _Strike:
    def __init__(self, what: str, step: int) -> None:
        self.what, self.left = what, step

    def __call__(self, model: nn.Module, _: Any, logits: Tensor) -> Tensor:
        if not (model.training and torch.is_grad_enabled()):
            return logits
        self.left -= 1
        if self.left:
            return logits
        os.write(2, MARK)
        if self.what == "nan":
            return logits * float("nan")
        if self.what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + STALL
        while time.monotonic() < end:
            time.sleep(0.1)
        return logits
