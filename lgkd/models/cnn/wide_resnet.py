"""Build wide residual networks: few, wide, pre-activation blocks for small images.

Letters in shapes: B batch, K classes, H W image size.
"""

from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.resnet import check_classes, start_convolutions


class PreActivationBlock(nn.Module):
    """Apply BatchNorm, ReLU and a 3x3 convolution twice, with a shortcut: (B,in,H,W) -> (B,out,H/stride,W/stride).

    The shortcut is the input itself; where the shape changes it is a 1x1 convolution, without BatchNorm, of the input
    after the first BatchNorm and ReLU. The output is a sum that has passed no ReLU.
    """

    def __init__(self, width_in: int, width_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        inner: Tensor = self.conv2(self.dropout(self.relu(self.bn2(self.conv1(active)))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Classify images of about 32 px by WRN-depth-width: (B,3,H,W) -> (B,K).

    The stages `stage1`, `stage2`, `stage3` output maps (B,16w,H,W), (B,32w,H/2,W/2), (B,64w,H/4,W/4), w the width.
    They are the last sums of their stages: blocks are pre-activation, so these maps have negative
    values; the BatchNorm and ReLU that follow belong to the next stage (or, after stage 3, to the classifier).
    With 100 classes WRN-16-2 has 703,284 parameters, WRN-40-1 569,780, WRN-40-2 2,255,156, WRN-28-10 36,536,884.

    Source: Zagoruyko & Komodakis, arXiv 1605.07146, table 1 and section 2.4 (dropout between the convolutions). The
    paper leaves the shortcuts open: 1x1 convolutions after the shared BatchNorm and ReLU, as its code has them.

    Args:
        depth: 10, 16, 22, 28, 34, 40, ...: 6n+4.
        width: factor over the channels of a CIFAR ResNet, at least 1.
        num_classes: K, at least 1.
        dropout: probability that a value between the two convolutions of a block is dropped in training.
        in_chans: channels of the images.

    Raises:
        ModelError: a depth that is not 6n+4, or an option out of range.
    """

    def __init__(self, depth: int, width: int, num_classes: int, dropout: float = 0.0, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ModelError(f"the depth of a wide ResNet is {depth}, expected 6n+4: 10, 16, 22, 28, 40, ...")
        if width < 1:
            raise ModelError(f"the width of a wide ResNet is {width}, expected a whole number of at least 1")
        check_classes(num_classes)
        check_dropout(dropout)
        blocks = (depth - 4) // 6
        self.conv = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, 16 * width, blocks, 1, dropout)
        self.stage2 = _stage(16 * width, 32 * width, blocks, 2, dropout)
        self.stage3 = _stage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64 * width, num_classes)
        start_convolutions(self)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.stage3(self.stage2(self.stage1(self.conv(images_B3HW))))
        return self.fc(self.relu(self.bn(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def check_dropout(dropout: float) -> None:
    """Validate a dropout probability, from 0 to below 1.

    Raises:
        ModelError: it is out of range.
    """
    if not 0 <= dropout < 1:
        raise ModelError(f"dropout is {dropout}, expected a share from 0 to below 1")


def _stage(width_in: int, width_out: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(width_in, width_out, stride, dropout)
    return nn.Sequential(first, *(PreActivationBlock(width_out, width_out, 1, dropout) for _ in range(blocks - 1)))
