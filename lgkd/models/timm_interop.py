"""Find the call with which timm alone builds a student, for users of its weights without lgkd."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lgkd.models.forward_checks import check_model
from lgkd.models.registry import find


@dataclass(frozen=True)
class TimmCall:
    """Build the untrained student by `timm.create_model(model, **arguments)`."""

    model: str
    arguments: Mapping[str, Any]

    def make(self) -> nn.Module:
        import timm

        with torch.random.fork_rng(devices=[]):
            made: nn.Module = timm.create_model(self.model, **self.arguments)
        return made


def timm_call(
    name: str, options: Mapping[str, Any], *, num_classes: int, image_size: tuple[int, int], channels: int = 3
) -> TimmCall | None:
    """Return the timm call that builds a student, or None where timm alone cannot.

    Args:
        name: the student's.
        options: passed to its constructor.
        num_classes: width of the logits.
        image_size: (height, width) in pixels.
        channels: of its images.
    """
    info = find(name)
    known = info.timm if info is not None else name.removeprefix("timm:") if name.startswith("timm:") else None
    if known is None or options.get("distillation_token") or {"kept_heads", "kept_units"} & options.keys():
        return None
    plain = {key: value for key, value in options.items() if key != "distillation_token"}
    if channels != 3:
        plain["in_chans"] = channels
    side: Any = image_size if image_size[0] != image_size[1] else image_size[0]
    # Some need the size at construction, some refuse the argument, some accept it and fail; as in the factory.
    for extra in ({"img_size": side}, {}):
        call = TimmCall(known, {"num_classes": num_classes, **plain, **extra})
        if _works(call, num_classes, image_size, channels):
            return call
    return None


def _works(call: TimmCall, num_classes: int, image_size: tuple[int, int], channels: int) -> bool:
    try:
        check_model(call.make(), call.model, num_classes=num_classes, image_size=image_size, channels=channels)
    except Exception:  # any error of a constructor for an unknown argument
        return False
    return True
