"""A model that always names its first class, however it is trained."""

import torch
from torch import Tensor, nn


class Stubborn(nn.Module):
    """One convolution that guides, and a head that has made up its mind."""

    lgkd_taps = ("look",)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("verdict", torch.eye(num_classes)[0] * 20)

    def forward(self, images: Tensor) -> Tensor:
        return self.verdict + 1e-3 * self.look(images).mean((1, 2, 3))[:, None]


def stubborn(num_classes: int = 3, **_: object) -> Stubborn:
    """The model as a factory makes it."""
    return Stubborn(num_classes)
