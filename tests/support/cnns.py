"""What the tests of CNNs share: published figures, and small ones of each family."""

from collections.abc import Callable

import torch
from torch import nn

from lgkd.models.cnn.densenet import DenseNet
from lgkd.models.cnn.mobile import MobileNetV2, ShuffleNetV2
from lgkd.models.cnn.resnet import CifarResNetX4
from lgkd.models.cnn.vgg import Vgg
from lgkd.models.cnn.wide_resnet import WideResNet

K = 100
# In millions, as printed: the distillation suite's by the papers that use it, the others by their own papers or, for
# mobile and shuffle, by pytorch-cifar-models (100 classes, two decimals).
PUBLISHED = {
    "resnet8x4": "1.23",
    "resnet32x4": "7.43",
    "wrn_16_2": "0.70",
    "wrn_40_1": "0.57",
    "wrn_40_2": "2.26",
    "wrn_28_10": "36.5",
    "vgg8": "3.97",
    "vgg13": "9.46",
    "mobilenet_v2": "2.35",
    "shufflenet_v2": "1.36",
    "densenet_100_12": "0.8",
    "resnet18": "11.2",
    "resnet34": "21.3",
    "resnet50": "23.7",
}
MAPS = {
    "resnet8x4": [(64, 32, 32), (128, 16, 16), (256, 8, 8)],
    "resnet32x4": [(64, 32, 32), (128, 16, 16), (256, 8, 8)],
    "wrn_16_2": [(32, 32, 32), (64, 16, 16), (128, 8, 8)],
    "wrn_40_1": [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
    "wrn_40_2": [(32, 32, 32), (64, 16, 16), (128, 8, 8)],
    "wrn_28_10": [(160, 32, 32), (320, 16, 16), (640, 8, 8)],
    "vgg8": [(64, 32, 32), (128, 16, 16), (256, 8, 8)],
    "vgg13": [(64, 32, 32), (128, 16, 16), (256, 8, 8)],
    "mobilenet_v2": [(24, 32, 32), (32, 16, 16), (96, 8, 8)],
    "shufflenet_v2": [(116, 16, 16), (232, 8, 8), (464, 4, 4)],
    "densenet_100_12": [(216, 32, 32), (300, 16, 16), (342, 8, 8)],
    "resnet18": [(64, 56, 56), (128, 28, 28), (256, 14, 14)],
    "resnet34": [(64, 56, 56), (128, 28, 28), (256, 14, 14)],
    "resnet50": [(256, 56, 56), (512, 28, 28), (1024, 14, 14)],
}
# Small ones of every family: what makes it, how many BatchNorms of it stand right behind a convolution, and how many
# it has in all.
SMALL: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet8x4": (lambda: CifarResNetX4(8, 5), 10, 10),
    "wrn_10_2": (lambda: WideResNet(10, 2, 5), 4, 7),
    "wrn_16_1": (lambda: WideResNet(16, 1, 5), 6, 13),
    "vgg8": (lambda: Vgg(8, 5), 5, 5),
    "vgg13": (lambda: Vgg(13, 5), 10, 10),
    "mobilenet_v2_0.5": (lambda: MobileNetV2(5, width=0.5), 52, 52),
    "shufflenet_v2_0.5": (lambda: ShuffleNetV2(5, width=0.5), 56, 56),
    "densenet_10_4": (lambda: DenseNet(10, 4, 5), 3, 9),
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def lively(model: nn.Module) -> nn.Module:
    """Statistics and scales as a trained network has them, not the zeros and ones of a new one."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def small(name: str) -> nn.Module:
    torch.manual_seed(1)
    return lively(SMALL[name][0]())
