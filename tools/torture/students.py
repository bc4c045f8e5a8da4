"""A small student in one of whose steps something happens, as the environment says; made by the command itself.

LGKD_TORTURE_FAULT=WHAT:RANK:STEP    what: nan, memory, kill, stall, tell
LGKD_TORTURE_LARGEST=IMAGES          more images at once than that are too many for the memory of `hungry`
LGKD_TORTURE_TOLD=FILE               gets a line for each time that it was too many
LGKD_TORTURE_ROOM=MIB                so much more memory than at the first step the system gives to a `starved` one
"""

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.models.factory import create_student

FAULT = "LGKD_TORTURE_FAULT"
MARK = b"struck\n"
"""What is written to standard error when the fault strikes."""
FACTORY = f"{__name__}:struck"
LARGEST, TOLD = "LGKD_TORTURE_LARGEST", "LGKD_TORTURE_TOLD"
HUNGRY = f"{__name__}:hungry"
ROOM = "LGKD_TORTURE_ROOM"
STARVED = f"{__name__}:starved"
LITTLE = f"{__name__}:Little"
STALL = 60.0
"""Seconds for which a stalled step sleeps."""


def struck(num_classes: int, image_size: int) -> nn.Module:
    """A DeiT of three narrow blocks for tiny images; the fault strikes in training only."""
    model = _narrow(num_classes, image_size)
    what, _, rest = os.environ.get(FAULT, "").partition(":")
    rank, _, step = rest.partition(":")
    if what and os.environ.get("RANK", "0") == rank:
        model.register_forward_hook(_Strike(what, int(step)))
    return model


def hungry(num_classes: int, image_size: int) -> nn.Module:
    """The same, for which memory runs out where a training shows it more than so many images at once."""
    model = _narrow(num_classes, image_size)
    if LARGEST in os.environ:
        model.register_forward_pre_hook(_RunOut(int(os.environ[LARGEST]), Path(os.environ[TOLD])))
    return model


def starved(num_classes: int, image_size: int) -> nn.Module:
    """The same, in a process that the system refuses more memory while it trains."""
    model = _narrow(num_classes, image_size)
    model.register_forward_pre_hook(_Limit(int(os.environ[ROOM]) << 20))
    return model


class Little(nn.Module):
    """A teacher of a thousand weights, whose files are small enough to be kept as data."""

    lgkd_taps = ("first", "second", "third")

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits (B,K)."""
        return self.head(self.third(self.second(self.first(images_B3HW))).mean(dim=(2, 3)))


def _narrow(num_classes: int, image_size: int) -> nn.Module:
    options = {"patch_size": 2, "depth": 3, "embed_dim": 16, "num_heads": 2}
    return create_student("deit_tiny", num_classes=num_classes, image_size=image_size, **options)


class _RunOut:
    def __init__(self, largest: int, told: Path) -> None:
        self.largest, self.told = largest, told

    def __call__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (images,) = inputs
        if model.training and torch.is_grad_enabled() and len(images) > self.largest:
            with self.told.open("a") as stream:
                stream.write(f"{len(images)}\n")
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")


class _Limit:
    def __init__(self, room: int) -> None:
        self.room = room
        self.before, self.hard = resource.getrlimit(resource.RLIMIT_AS)
        self.limit: int | None = None

    def __call__(self, model: nn.Module, _: tuple[Tensor, ...]) -> None:
        trains = model.training and torch.is_grad_enabled()
        if trains and self.limit is None:
            self.limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + self.room
        if self.limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (self.limit if trains else self.before, self.hard))


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
        if self.what == "tell":
            return logits
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
