"""Build harmonic convolutions: kernels learned as coefficients of a discrete cosine transform.

Source: Ulicny et al., Harmonic Convolutional Networks based on Discrete Cosine Transform, arXiv 2001.06570, and the
authors' code (filters of absolute sum 1, He's fan-out distribution for the coefficients, BatchNorm without scale and
shift behind the transform of the image).

Letters in shapes: B batch, C channels, H W image size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HarmonicConv2d(nn.Module):
    """Convolve with 3x3 kernels that are weighted sums of nine cosine filters: (B,in,H,W) -> (B,out,H/stride,W/stride).

    The sum is computed once per forward pass, so that a step costs as much as that of a plain convolution. It has as
    many weights as one and spans the same kernels; only the starting point and the optimiser's path differ.

    Args:
        width_in, width_out: channels.
        stride: of the convolution.
    """

    filters: Tensor

    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(width_out, width_in, 3, 3))
        """Coefficients: [out, in, vertical frequency, horizontal frequency]."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("filters", cosine_filters(3), persistent=False)

    def kernel(self) -> Tensor:
        """Compose the kernels (out,in,3,3) of an equal plain convolution."""
        return (self.weight.flatten(2) @ self.filters.flatten(1)).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), stride=self.stride, padding=1)


class HarmonicStem(nn.Module):
    """Transform an image by nine cosine filters a channel, normalise, and mix: (B,C,H,W) -> (B,out,H,W).

    Args:
        width_in, width_out: channels.
    """

    filters: Tensor

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.register_buffer("filters", cosine_filters(3).repeat(width_in, 1, 1)[:, None], persistent=False)
        self.bn = nn.BatchNorm2d(9 * width_in, affine=False)
        self.mix = nn.Conv2d(9 * width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        transformed = F.conv2d(x, self.filters, padding=1, groups=x.shape[1])
        return self.mix(self.bn(transformed))  # type: ignore[no-any-return]


def cosine_filters(side: int) -> Tensor:
    """Compute the filters (side^2,side,side) of a discrete cosine transform, each of absolute sum 1.

    Filter side * u + v has vertical frequency u and horizontal frequency v:
    cos(pi (y + 1/2) u / side) cos(pi (x + 1/2) v / side).
    """
    places = torch.arange(side, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi * torch.arange(side, dtype=torch.float64)[:, None] * places / side)
    filters = torch.einsum("uy,vx->uvyx", waves, waves).flatten(0, 1)
    return (filters / filters.abs().sum(dim=(1, 2), keepdim=True)).float()
