"""Build DenseNet-BC for small images: every layer reads the maps of all layers before it in its stage.

Letters in shapes: B batch, C channels, K classes, H W image size.
"""

import torch
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.resnet import check_classes, start_convolutions
from lgkd.models.cnn.wide_resnet import check_dropout


class DenseLayer(nn.Module):
    """Join a 1x1 convolution to 4k channels and a 3x3 one to k to the input: (B,C,H,W) -> (B,C+k,H,W).

    Each convolution comes after its BatchNorm and ReLU.
    """

    def __init__(self, width_in: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.relu(self.bn1(x)))
        new = self.dropout(self.conv2(self.relu(self.bn2(inner))))
        return torch.cat((x, new), dim=1)


class Transition(nn.Module):
    """Halve channels and grid: BatchNorm, ReLU, 1x1 convolution, 2x2 mean."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width_in)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(width_in, width_out, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.bn(x))))  # type: ignore[no-any-return]


class DenseNet(nn.Module):
    """Classify images of about 32 px by a DenseNet-BC of depth 6n+4: (B,3,H,W) -> (B,K).

    `stage1`, `stage2`, `stage3` output all maps of their dense block, for depth 100 and growth 12 (B,216,H,W),
    (B,300,H/2,W/2), (B,342,H/4,W/4). They are read as concatenated, before the BatchNorm and ReLU of the next part,
    so they have negative values. With 100 classes that network has 800,032 parameters.

    Source: Huang et al., arXiv 1608.06993, section 3 (bottleneck to 4k, compression 0.5, 2k channels to begin with).

    Args:
        depth: 10, 16, 22, ..., 100: 6n+4.
        growth: k, channels that a layer adds, at least 1.
        num_classes: K, at least 1.
        dropout: after each 3x3 convolution, in training; the paper has 0.2 where images are not augmented.
        in_chans: channels of the images.

    Raises:
        ModelError: a depth that is not 6n+4, or an option out of range.
    """

    def __init__(self, depth: int, growth: int, num_classes: int, dropout: float = 0.0, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ModelError(f"the depth of a DenseNet-BC is {depth}, expected 6n+4: 10, 16, 22, 40, 100, ...")
        if growth < 1:
            raise ModelError(f"the growth of a DenseNet is {growth}, expected a whole number of at least 1")
        check_classes(num_classes)
        check_dropout(dropout)
        layers = (depth - 4) // 6
        width = 2 * growth
        self.conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.stage1 = _dense_block(width, growth, layers, dropout)
        width += layers * growth
        self.transition1 = Transition(width, width // 2)
        self.stage2 = _dense_block(width // 2, growth, layers, dropout)
        width = width // 2 + layers * growth
        self.transition2 = Transition(width, width // 2)
        self.stage3 = _dense_block(width // 2, growth, layers, dropout)
        width = width // 2 + layers * growth
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width, num_classes)
        start_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.transition1(self.stage1(self.conv(images_B3HW)))
        x = self.stage3(self.transition2(self.stage2(x)))
        return self.fc(self.relu(self.bn(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _dense_block(width_in: int, growth: int, layers: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(width_in + number * growth, growth, dropout) for number in range(layers)))
