"""Build the VGG networks of the distillation suites: plain 3x3 convolutions for small images.

Letters in shapes: B batch, K classes, H W image size.
"""

from typing import ClassVar

from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.resnet import check_classes, start_convolutions
from lgkd.models.factory import ImageSize, pair


class Vgg(nn.Module):
    """Classify images of 32 or 64 px by VGG with BatchNorm and one linear layer: (B,3,H,W) -> (B,K).

    Five stages of 3x3 convolutions (with bias), BatchNorm and ReLU; each of the first three is followed by 2x2 max
    pooling, for images of 64 px and more the fourth, too. `stage1` ... `stage5` output maps (B,64,H,W),
    (B,128,H/2,W/2), (B,256,H/4,W/4), (B,512,H/8,W/8), (B,512,H/8,W/8), after the ReLU and before the pooling.
    With 100 classes depth 8 has 3,965,028 parameters, depth 13 9,462,180.

    Source: Simonyan & Zisserman, arXiv 1409.1556, table 1: configuration B for depth 13. The BatchNorm, the single
    linear layer after the mean over the map, and depth 8 (one convolution a stage) are those of Tian et al.,
    "Contrastive Representation Distillation", arXiv 1910.10699, as in their released code (RepDistiller).

    Args:
        depth: 8 or 13.
        num_classes: K, at least 1.
        image_size: pixels, one number or (height, width); decides whether the fourth stage is pooled.
        in_chans: channels of the images.

    Raises:
        ModelError: another depth, or fewer than one class.
    """

    per_stage: ClassVar[dict[int, tuple[int, ...]]] = {8: (1, 1, 1, 1, 1), 13: (2, 2, 2, 2, 2)}
    """Convolutions of each stage, by depth; the paper's three linear layers, reduced to one here, still count."""

    def __init__(self, depth: int, num_classes: int, image_size: ImageSize = 32, in_chans: int = 3) -> None:
        super().__init__()
        if depth not in self.per_stage:
            raise ModelError(f"the depth of a VGG is {depth}, expected 8 or 13")
        check_classes(num_classes)
        widths = (in_chans, 64, 128, 256, 512, 512)
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = (
            _stage(before, after, many)
            for before, after, many in zip(widths, widths[1:], self.per_stage[depth], strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.last_pool = nn.MaxPool2d(2) if min(pair(image_size)) >= 64 else nn.Identity()
        self.classifier = nn.Linear(512, num_classes)
        start_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.pool(self.stage1(images_B3HW))
        x = self.pool(self.stage2(x))
        x = self.pool(self.stage3(x))
        x = self.last_pool(self.stage4(x))
        return self.classifier(self.stage5(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _stage(width_in: int, width_out: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        convolution = nn.Conv2d(width_out if number else width_in, width_out, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
