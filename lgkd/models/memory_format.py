"""Choose the memory format of convolutions: channels last, where that is faster."""

import torch
from torch import nn

from lgkd.models.default_taps import block_names


def prefers_channels_last(model: nn.Module, device: str | torch.device | None = None) -> bool:
    """Decide on the channels-last memory format, which convolutions whose windows overlap are faster with.

    A projection of patches, the only convolution of a plain ViT, gains nothing by it. Transformers with other
    convolutions were measured on CPUs alone (`python -m tools.memory_format`), so that a GPU keeps its format.

    Args:
        model: of any kind.
        device: where it is trained or evaluated; None where that is not known yet, which decides for CNNs alone.
    """
    if block_names(model) and (device is None or torch.device(device).type != "cpu"):
        return False
    return any(
        isinstance(module, nn.Conv2d)
        and any(kernel > stride for kernel, stride in zip(module.kernel_size, module.stride, strict=True))
        for module in model.modules()
    )


def lay_out(model: nn.Module, device: str | torch.device | None = None) -> bool:
    """Store the weights of the convolutions channels last where the model prefers it; return whether it does.

    Other parameters keep their format: a model may read them in an order of its own.

    Args:
        model: changed in place.
        device: as for `prefers_channels_last`.
    """
    preferred = prefers_channels_last(model, device)
    if preferred:
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    return preferred
