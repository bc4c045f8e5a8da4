"""What the tests of DHVT share: small ones, and weights that are no start."""

from typing import Any

import torch
from torch import nn

from lgkd.models.dhvt import DHVT

PLAIN: dict[str, Any] = {
    "patch_embedding": "linear",
    "head_tokens": False,
    "feed_forward": "mlp",
    "position_embedding": True,
}


def small(**options: Any) -> DHVT:
    """Three blocks of width 12 for images of 16 px, no weight or statistic of which is where it starts."""
    torch.manual_seed(1)
    settings = {"image_size": 16, "depth": 3, "num_heads": 3, **options}
    return stirred(DHVT(5, settings.pop("width", 12), **settings))


def stirred(model: nn.Module) -> Any:
    """Biases, scales and statistics drawn afresh, so that none of them can be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
