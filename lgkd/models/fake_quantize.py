"""Train a model with its weights and inputs rounded as in int8 (quantisation-aware training).

Letters in shapes: O output channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fake_quantize(model: nn.Module) -> None:
    """Round the weights and inputs of linear layers and convolutions to int8 while the model trains.

    In training a layer computes with a rounded copy of its weight, one scale for each output channel,

        scale = max |w| / 127,  rounded = scale * round(w / scale)

    and with inputs that are rounded to 256 levels between their least and largest value in the batch, zero among them:
    the form of `lgkd export --format onnx-int8`, but for its ranges, which are those of calibration images. The
    gradient passes through both roundings as if they were not there. Names, weights and evaluation stay as they are.

    Layers of derived classes, such as those inside `nn.MultiheadAttention`, are left out, and so is a model that is a
    single layer itself.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    CVPR 2018 (arXiv 1712.05877), without the running mean of the ranges.

    Args:
        model: changed in place; `restore` undoes it.
    """
    for module in model.modules():
        # A class with another forward, not hooks or new modules: copies, names and state stay those of the layer.
        if module is not model and type(module) in _ROUNDING:
            module.__class__ = _ROUNDING[type(module)]


def restore(model: nn.Module) -> None:
    """Undo `fake_quantize`; other models stay as they are."""
    plain = {rounding: layer for layer, rounding in _ROUNDING.items()}
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))


def rounded_weight(weight: Tensor) -> Tensor:
    """Round a weight (O,...) to int8, symmetrically, with one scale for each output channel."""
    scale_O = weight.detach().flatten(1).abs().amax(dim=1).float() / 127
    scale_O = torch.where(scale_O > 0, scale_O, 1.0)
    zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale_O, zero_O, 0, -127, 127)


def rounded_input(values: Tensor) -> Tensor:
    """Round values to 256 levels between their least and largest, of which one is zero."""
    with torch.no_grad():
        low = values.amin().float().clamp(max=0)
        scale = (values.amax().float().clamp(min=0) - low) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-128 - (low / scale).round()).to(torch.int32)
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, scale, zero, -128, 127)
    return rounded


class RoundingLinear(nn.Linear):
    """Compute a linear layer with rounded weights and inputs in training."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training:
            return super().forward(input)
        return F.linear(rounded_input(input), rounded_weight(self.weight), self.bias)


class RoundingConv2d(nn.Conv2d):
    """Compute a convolution with rounded weights and inputs in training."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training:
            return super().forward(input)
        output: Tensor = self._conv_forward(rounded_input(input), rounded_weight(self.weight), self.bias)
        return output


_ROUNDING: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: RoundingLinear, nn.Conv2d: RoundingConv2d}
