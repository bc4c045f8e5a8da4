"""Networks under their publishers' names, made of parts that are not lgkd's."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from lgkd.models.factory import create_teacher

CLASSES = 5


# The publishers' networks, with their names, from parts that are not ours.


class TorchvisionStyle(nn.Module):
    """pytorch-cifar-models, RepDistiller and mdistiller: a CIFAR ResNet of torchvision's blocks."""

    def __init__(self, depth: int = 8, widths: tuple[int, ...] = (16, 16, 32, 64)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        for number, (before, width) in enumerate(pairwise(widths), start=1):
            stride = 2 if number > 1 else 1
            down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            first = BasicBlock(before, width, stride, down if stride > 1 or before != width else None)
            more = [BasicBlock(width, width) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *more))
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class PyclsBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.proj = self.bn = None
        if stride != 1 or before != width:
            self.proj, self.bn = nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.f = nn.Module()
        self.f.a, self.f.a_bn = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.f.b, self.f.b_bn = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.f.b_bn(self.f.b(torch.relu(self.f.a_bn(self.f.a(x)))))
        return torch.relu(inner + (x if self.proj is None else self.bn(self.proj(x))))


class PyclsStyle(nn.Module):
    """The code of Locality Guidance: stem, s1 to s3 of blocks b1, b2, ..., head."""

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        self.stem, self.head = nn.Module(), nn.Module()
        self.stem.conv, self.stem.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        for number, (before, width, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)), start=1):
            stage = nn.Sequential()
            for block in range((depth - 2) // 6):
                made = PyclsBlock(width if block else before, width, 1 if block else stride)
                stage.add_module(f"b{block + 1}", made)
            self.add_module(f"s{number}", stage)
        self.head.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem.bn(self.stem.conv(x)))
        return self.head.fc(self.s3(self.s2(self.s1(x))).mean((2, 3)))


class WrnBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(before, width, 1, stride, bias=False) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn1(x))
        inner = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return inner + (x if self.convShortcut is None else self.convShortcut(active))


class WrnStyle(nn.Module):
    """RepDistiller's WRN-16-2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.fc = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(128), None
        for number, (before, width, stride) in enumerate(((16, 32, 1), (32, 64, 2), (64, 128, 2)), start=1):
            block = nn.Module()
            block.layer = nn.Sequential(WrnBlock(before, width, stride), WrnBlock(width, width, 1))
            self.add_module(f"block{number}", block)
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))


class VggStyle(nn.Module):
    """RepDistiller's VGG-13: five blocks, the last ReLU of each outside of it."""

    def __init__(self) -> None:
        super().__init__()
        for number, (before, width) in enumerate(((3, 64), (64, 128), (128, 256), (256, 512), (512, 512))):
            parts = [nn.Conv2d(before, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            parts += [nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)]
            self.add_module(f"block{number}", nn.Sequential(*parts))
        self.classifier = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.block0, self.block1, self.block2):
            x = nn.functional.max_pool2d(torch.relu(block(x)), 2)
        x = torch.relu(self.block4(torch.relu(self.block3(x))))
        return self.classifier(x.mean((2, 3)))


def mobile_style() -> nn.Module:
    """pytorch-cifar-models: torchvision's with stride 1 in the first convolution and the second group."""
    groups = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    model = torchvision.models.MobileNetV2(CLASSES, width_mult=0.5, inverted_residual_setting=groups)
    model.features[0][0].stride = (1, 1)
    return model


def shuffle_style() -> nn.Module:
    """pytorch-cifar-models: torchvision's with stride 1 in the first convolution and without max pooling."""
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)
    model.conv1[0].stride, model.maxpool = (1, 1), nn.Identity()
    return model


AT_HOME: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "pytorch-cifar-models resnet20": (lambda: TorchvisionStyle(20), "resnet20", {}),
    "RepDistiller resnet8x4": (lambda: TorchvisionStyle(8, (32, 64, 128, 256)), "resnet8x4", {}),
    "tiny-transformers resnet20": (PyclsStyle, "resnet20", {}),
    "RepDistiller wrn_16_2": (WrnStyle, "wrn_16_2", {}),
    "RepDistiller vgg13": (VggStyle, "vgg13", {}),
    "pytorch-cifar-models mobilenetv2_x0_5": (mobile_style, "mobilenet_v2", {"width": 0.5}),
    "pytorch-cifar-models shufflenetv2_x0_5": (shuffle_style, "shufflenet_v2", {"width": 0.5}),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=CLASSES), "resnet18", {}),
    "our own": (lambda: create_teacher("densenet_100_12", num_classes=CLASSES), "densenet_100_12", {}),
}
