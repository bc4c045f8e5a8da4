"""Build MobileNetV2 and ShuffleNetV2 with strides for small images.

Letters in shapes: B batch, C channels, K classes, H W image size.
"""

import torch
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.resnet import check_classes, start_convolutions
from lgkd.models.cnn.wide_resnet import check_dropout


class InvertedResidual(nn.Module):
    """Widen 1x1, convolve depthwise 3x3, narrow 1x1 without activation: (B,in,H,W) -> (B,out,H/stride,W/stride).

    The input is added where the shape is kept. With `expansion` 1 there is no widening.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = _layer(width_in, inner, 1, nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(inner, inner, 3, nn.ReLU6, stride=stride, groups=inner)
        self.project = _layer(inner, width_out, 1, None)
        self.adds = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """Classify images of about 32 px by MobileNetV2: (B,3,H,W) -> (B,K).

    `stage1` ... `stage4` output maps (B,24w,H,W), (B,32w,H/2,W/2), (B,96w,H/4,W/4), (B,320w,H/8,W/8), w the width.
    Blocks end in a linear bottleneck, so these maps have passed no activation and have negative values.
    With 100 classes width 1 has 2,351,972 parameters, width 1.4 4,495,076.

    Source: Sandler et al., arXiv 1801.04381, table 2. For 224 px the first convolution and the second group have stride
    2; here it is 1, the choice of pytorch-cifar-models, whose weights `lgkd.models.pretrained` reads. Channels are
    rounded to multiples of 8, which the paper leaves open and all released code does.

    Args:
        num_classes: K, at least 1.
        width: factor of all channels but the last 1,280, which is never reduced.
        dropout: before the classifier, in training.
        in_chans: channels of the images.

    Raises:
        ModelError: an option out of range.
    """

    def __init__(self, num_classes: int, width: float = 1.0, dropout: float = 0.2, in_chans: int = 3) -> None:
        super().__init__()
        check_classes(num_classes)
        check_dropout(dropout)
        if not 0.1 <= width <= 4:
            raise ModelError(
                f"a MobileNetV2 of width {width} is out of range; expected 0.1 to 4, such as 0.5, 1 or 1.4"
            )
        stem, first, *widths = (_eighths(width * channels) for channels in (32, 16, 24, 32, 64, 96, 160, 320))
        last = _eighths(1280 * max(1.0, width))
        self.stem = _layer(in_chans, stem, 3, nn.ReLU6)
        second, third, fourth, fifth, sixth, seventh = widths
        self.stage1 = nn.Sequential(InvertedResidual(stem, first, 1, 1), *_group(first, second, 2, 1))
        self.stage2 = nn.Sequential(*_group(second, third, 3, 2))
        self.stage3 = nn.Sequential(*_group(third, fourth, 4, 2), *_group(fourth, fifth, 3, 1))
        self.stage4 = nn.Sequential(*_group(fifth, sixth, 3, 2), *_group(sixth, seventh, 1, 1))
        self.head = _layer(seventh, last, 1, nn.ReLU6)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        start_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images_B3HW)))))
        return self.classifier(self.dropout(self.head(x).mean(dim=(2, 3))))  # type: ignore[no-any-return]


class ShuffleBlock(nn.Module):
    """Convolve half of the channels, pass the rest, interleave both: (B,C,H,W) -> (B,C,H,W).

    With stride 2 no half is passed on: both are convolved from all channels, (B,in,H,W) -> (B,C,H/2,W/2).
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        half = width_out // 2
        self.split = half
        self.passing: nn.Module | None = None
        if stride > 1:
            depthwise = _layer(width_in, width_in, 3, None, stride=stride, groups=width_in)
            self.passing = nn.Sequential(*depthwise, *_layer(width_in, half, 1, nn.ReLU))
        self.convolved = nn.Sequential(
            *_layer(width_in if stride > 1 else half, half, 1, nn.ReLU),
            *_layer(half, half, 3, None, stride=stride, groups=half),
            *_layer(half, half, 1, nn.ReLU),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.passing is None:
            halves = x[:, : self.split], self.convolved(x[:, self.split :])
        else:
            halves = self.passing(x), self.convolved(x)
        # (B,2,C/2,H,W) -> (B,C/2,2,H,W): channels of both halves alternate.
        return torch.stack(halves, dim=2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """Classify images of about 32 px by ShuffleNetV2: (B,3,H,W) -> (B,K).

    `stage1`, `stage2`, `stage3` output maps (B,116,H/2,W/2), (B,232,H/4,W/4), (B,464,H/8,W/8) at width 1, after the
    activation. With 100 classes width 1 has 1,356,104 parameters, width 2 5,549,896.

    Source: Ma et al., arXiv 1807.11164, table 5; the stages are called 2 to 4 there. For small images the first
    convolution has stride 1 and the max pooling is left out, the choice of pytorch-cifar-models, whose weights
    `lgkd.models.pretrained` reads.

    Args:
        num_classes: K, at least 1.
        width: 0.5, 1, 1.5 or 2.
        in_chans: channels of the images.

    Raises:
        ModelError: another width, or fewer than one class.
    """

    def __init__(self, num_classes: int, width: float = 1.0, in_chans: int = 3) -> None:
        super().__init__()
        check_classes(num_classes)
        if width not in _SHUFFLED:
            raise ModelError(f"a ShuffleNetV2 of width {width} is not published; expected 0.5, 1, 1.5 or 2")
        first, second, third, last = _SHUFFLED[width]
        self.stem = _layer(in_chans, 24, 3, nn.ReLU)
        self.stage1 = _shuffled(24, first, 4)
        self.stage2 = _shuffled(first, second, 8)
        self.stage3 = _shuffled(second, third, 4)
        self.head = _layer(third, last, 1, nn.ReLU)
        self.classifier = nn.Linear(last, num_classes)
        start_convolutions(self)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(images_B3HW))))
        return self.classifier(self.head(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


_SHUFFLED = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def _layer(
    width_in: int, width_out: int, kernel: int, activation: type[nn.Module] | None, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build a convolution, its BatchNorm, and the activation after them."""
    convolution = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(width_out)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation is not None else []))


def _group(width_in: int, width_out: int, blocks: int, stride: int) -> list[InvertedResidual]:
    first = InvertedResidual(width_in, width_out, stride, 6)
    return [first, *(InvertedResidual(width_out, width_out, 1, 6) for _ in range(blocks - 1))]


def _shuffled(width_in: int, width_out: int, blocks: int) -> nn.Sequential:
    first = ShuffleBlock(width_in, width_out, 2)
    return nn.Sequential(first, *(ShuffleBlock(width_out, width_out, 1) for _ in range(blocks - 1)))


def _eighths(channels: float) -> int:
    """Round to the nearest multiple of 8, at least 8; take the next one where more than a tenth would be lost."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
