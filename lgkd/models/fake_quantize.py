"""Train a model with its weights and inputs rounded as in int8 (quantisation-aware training).

Letters in shapes: O output channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError


def fake_quantize(model: nn.Module) -> None:
    """Round the weights and inputs of linear layers and convolutions to int8 while the model trains.

    In training a layer computes with a rounded copy of its weight, one scale for each output channel,

        scale = max |w| / 127,  rounded = scale * round(w / scale)

    and with inputs that are rounded to 256 levels between their least and largest value, zero among them. An int8 file
    of `lgkd export` has this form, too; its ranges are those of calibration images, here they are those of the
    micro-batch of a process, so that `accumulate` and several processes change the rounding. The gradient passes
    through both roundings; values that are not finite stay so. Names, weights and evaluation stay as they are.

    Layers of derived classes, such as those inside `nn.MultiheadAttention`, are left out, and so is a model that is a
    single layer itself.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    CVPR 2018 (arXiv 1712.05877), without the running mean of the ranges.

    Args:
        model: changed in place; `restore` undoes it.

    Raises:
        ModelError: it has no linear layer or convolution inside.
    """
    found = [module for module in model.modules() if module is not model and type(module) in _ROUNDING]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no linear layer or convolution of torch's own classes, whose values "
            "fake_quantize rounds; set it to null, or build the model of torch's layers"
        )
    for module in found:
        # A class with another forward, not hooks or new modules: copies, names and state stay those of the layer.
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
    return _with_faults(torch.fake_quantize_per_channel_affine(weight, scale_O, zero_O, 0, -127, 127), weight)


def rounded_input(values: Tensor) -> Tensor:
    """Round values to 256 levels between their least and largest, of which one is zero."""
    with torch.no_grad():
        low = values.amin().float().clamp(max=0)
        scale = (values.amax().float().clamp(min=0) - low) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-128 - (low / scale).round()).to(torch.int32)
    return _with_faults(torch.fake_quantize_per_tensor_affine(values, scale, zero, -128, 127), values)


def _with_faults(rounded: Tensor, values: Tensor) -> Tensor:
    """Make values that are not finite NaN, which rounding makes finite, so that the guard of the step sees them."""
    return rounded + (values - values).detach()


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
