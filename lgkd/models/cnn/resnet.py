"""Build the ResNets of the CIFAR experiments: three stages of narrow 3x3 convolutions for small images.

Letters in shapes: B batch, K classes, H W image size.
"""

from typing import ClassVar

from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.harmonic import HarmonicConv2d, HarmonicStem


class BasicBlock(nn.Module):
    """Apply two 3x3 convolutions with BatchNorm and a shortcut: (B,in,H,W) -> (B,out,H/stride,W/stride).

    Where the shape changes the shortcut is a 1x1 convolution with BatchNorm.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, *, harmonic: bool = False) -> None:
        super().__init__()
        self.conv1 = _convolution(width_in, width_out, stride, harmonic)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = _convolution(width_out, width_out, 1, harmonic)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.bn2(self.conv2(inner))
        out: Tensor = self.relu(inner + self.shortcut(x))
        return out


class CifarResNet(nn.Module):
    """Classify images of about 32 px by a ResNet of depth 6n+2: (B,3,H,W) -> (B,K).

    The stages `stage1`, `stage2`, `stage3` output maps (B,16,H,W), (B,32,H/2,W/2), (B,64,H/4,W/4).
    ResNet-56 with 100 classes has 861,620 parameters.

    Source: He et al., arXiv 1512.03385, section 4.2. Shortcuts that change shape are projections
    and convolutions start from He's fan-out distribution, the head from a normal one of deviation 0.01 with biases at
    0, as in the code of Locality Guidance.

    Args:
        depth: 8, 14, 20, 26, ...: 6n+2.
        num_classes: K, at least 1.
        harmonic: learn 3x3 kernels as coefficients of a cosine transform, see `lgkd.models.cnn.harmonic`; its published
            gains are with 30 to 80 images a class.
        in_chans: channels of the images.

    Raises:
        ModelError: a depth that is not 6n+2, or fewer than one class.
    """

    widths: ClassVar[tuple[int, int, int, int]] = (16, 16, 32, 64)
    """Channels of the first convolution and of the three stages."""
    head_std: ClassVar[float | None] = 0.01
    """Standard deviation of the head's first weights, with biases at 0; None: as in torch."""

    def __init__(self, depth: int, num_classes: int, harmonic: bool = False, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ModelError(f"the depth of a CIFAR ResNet is {depth}, expected 6n+2: 8, 14, 20, 26, 32, ...")
        check_classes(num_classes)
        blocks = (depth - 2) // 6
        stem, first, second, third = self.widths
        self.conv = HarmonicStem(in_chans, stem) if harmonic else nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.stage1 = _stage(stem, first, blocks, stride=1, harmonic=harmonic)
        self.stage2 = _stage(first, second, blocks, stride=2, harmonic=harmonic)
        self.stage3 = _stage(second, third, blocks, stride=2, harmonic=harmonic)
        self.fc = nn.Linear(third, num_classes)
        start_convolutions(self)
        if self.head_std is not None:
            nn.init.normal_(self.fc.weight, std=self.head_std)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.relu(self.bn(self.conv(images_B3HW)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class CifarResNetX4(CifarResNet):
    """Classify images by the wide CIFAR ResNet of the distillation suites ("8x4", "32x4"): (B,3,H,W) -> (B,K).

    Four times as wide in its stages, (B,64,H,W), (B,128,H/2,W/2), (B,256,H/4,W/4), and twice in its first convolution,
    so that stage 1 has a projection, too. With 100 classes depth 8 has 1,233,540 parameters, depth 32 7,433,860.

    Source: the networks of Tian et al., "Contrastive Representation Distillation", arXiv 1910.10699, widths as in their
    released code (RepDistiller), as is the head, which starts as in torch. Otherwise as `CifarResNet`.
    """

    widths: ClassVar[tuple[int, int, int, int]] = (32, 64, 128, 256)
    head_std: ClassVar[float | None] = None


def check_classes(num_classes: int) -> None:
    """Validate the number of classes of a CNN.

    Raises:
        ModelError: fewer than one.
    """
    if num_classes < 1:
        raise ModelError(f"num_classes is {num_classes}, expected at least 1")


def start_convolutions(model: nn.Module) -> None:
    """Initialise every convolution of a CNN of ReLUs from He's normal distribution over fan-out, biases at 0.

    Source: He et al., arXiv 1502.01852, section 2.2, backward case.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _stage(width_in: int, width_out: int, blocks: int, stride: int, *, harmonic: bool) -> nn.Sequential:
    first = BasicBlock(width_in, width_out, stride, harmonic=harmonic)
    return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1, harmonic=harmonic) for _ in range(blocks - 1)))


def _convolution(width_in: int, width_out: int, stride: int, harmonic: bool) -> nn.Module:
    if harmonic:
        return HarmonicConv2d(width_in, width_out, stride)
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
