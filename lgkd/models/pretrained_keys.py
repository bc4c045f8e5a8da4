"""Map the names of layers in published weights to those of lgkd's CNNs.

Facts taken from the publishers' code:

* pytorch-cifar-models and RepDistiller (mdistiller has the same): CIFAR ResNets, `conv1`, `bn1`, `layer1.0.conv1`,
  `layer2.0.downsample.0`, `fc`; wide ResNets and VGGs of RepDistiller, `block1.layer.0.convShortcut`, `block0.0`;
  MobileNetV2 and ShuffleNetV2 of pytorch-cifar-models, which are torchvision's, `features.1.conv.0.0`,
  `stage2.0.branch1.0`.
* the code of Locality Guidance (tiny-transformers, a fork of pycls): CIFAR ResNets, `stem.conv`, `s1.b1.f.a`,
  `s1.b1.f.a_bn`, `s2.b1.proj`, `s2.b1.bn`, `head.fc`.

Not included, being other networks: MobileNetV2 and ShuffleNetV2 of RepDistiller (other strides, another first
convolution), VGGs of pytorch-cifar-models (two more linear layers).
"""

import re
from collections.abc import Callable

from torch import nn

from lgkd.models.cnn.mobile import MobileNetV2, ShuffleNetV2
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.cnn.vgg import Vgg
from lgkd.models.cnn.wide_resnet import WideResNet

Layout = Callable[[str], str]
"""Function from a publisher's name of a tensor to lgkd's; unknown names are returned unchanged."""


def layouts_of(model: nn.Module) -> list[Layout]:
    """Return all layouts that a model's weights may have; the first is its own."""
    return [_as_it_is, *(layout for kind, layout in _LAYOUTS if isinstance(model, kind))]


def _as_it_is(key: str) -> str:
    return key


def _renamer(*rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> Layout:
    """Build a layout from patterns and their replacements, applied in order."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]

    def rename(key: str) -> str:
        for pattern, new in compiled:
            key = pattern.sub(new, key)
        return key

    return rename


def _mobile_block(match: re.Match[str]) -> str:
    """Map `features.N.` of MobileNetV2: first the stem, then 17 blocks in the order of the stages, then the head."""
    number = int(match.group(1))
    for stage, (first, last) in enumerate(((1, 3), (4, 6), (7, 13), (14, 17)), start=1):
        if first <= number <= last:
            return f"stage{stage}.{number - first}."
    return {0: "stem.", 18: "head."}.get(number, match.group(0))


_LAYOUTS: tuple[tuple[type[nn.Module], Layout], ...] = (
    (
        CifarResNet,
        _renamer((r"^conv1\.", "conv."), (r"^bn1\.", "bn."), (r"^layer", "stage"), (r"\.downsample\.", ".shortcut.")),
    ),
    (
        CifarResNet,
        _renamer(
            (r"^stem\.", ""),
            (r"^head\.", ""),
            (r"^s(\d)\.b(\d+)\.", lambda m: f"stage{m.group(1)}.{int(m.group(2)) - 1}."),
            (r"^(stage\d\.\d+)\.proj\.", r"\1.shortcut.0."),
            (r"^(stage\d\.\d+)\.bn\.", r"\1.shortcut.1."),
            (r"\.f\.a\.", ".conv1."),
            (r"\.f\.a_bn\.", ".bn1."),
            (r"\.f\.b\.", ".conv2."),
            (r"\.f\.b_bn\.", ".bn2."),
        ),
    ),
    (
        WideResNet,
        _renamer(
            (r"^conv1\.", "conv."),
            (r"^bn1\.", "bn."),
            (r"^block(\d)\.layer\.", r"stage\1."),
            (r"\.convShortcut\.", ".shortcut."),
        ),
    ),
    (Vgg, _renamer((r"^block(\d)\.", lambda m: f"stage{int(m.group(1)) + 1}."))),
    (
        MobileNetV2,
        _renamer(
            (r"^features\.(\d+)\.", _mobile_block),
            (r"^classifier\.1\.", "classifier."),
            # The very first block has no widening, so its layers are counted from the depthwise one.
            (r"^stage1\.0\.conv\.0\.", "stage1.0.depthwise."),
            (r"^stage1\.0\.conv\.1\.", "stage1.0.project.0."),
            (r"^stage1\.0\.conv\.2\.", "stage1.0.project.1."),
            (r"\.conv\.0\.", ".expand."),
            (r"\.conv\.1\.", ".depthwise."),
            (r"\.conv\.2\.", ".project.0."),
            (r"\.conv\.3\.", ".project.1."),
        ),
    ),
    (
        ShuffleNetV2,
        _renamer(
            (r"^conv1\.", "stem."),
            (r"^conv5\.", "head."),
            (r"^fc\.", "classifier."),
            (r"^stage(\d)\.", lambda m: f"stage{int(m.group(1)) - 1}."),
            (r"\.branch1\.", ".passing."),
            (r"\.branch2\.", ".convolved."),
        ),
    ),
)
"""Architectures with weights under other names, and the map from these names to lgkd's."""
