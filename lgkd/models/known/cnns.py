"""The CNN teachers of the field besides the CIFAR ResNets."""

from lgkd.models.known.info import ModelInfo

_SUITE = "as in the distillation suite of Tian et al., arXiv 1910.10699"


def _own(name: str, title: str, parameters: int, source: str, made_by: str, **preset: int) -> ModelInfo:
    return ModelInfo(name, "teacher", title, 32, parameters, source, made_by=f"lgkd.models.{made_by}", preset=preset)


def _imagenet(depth: int, parameters: int) -> ModelInfo:
    name = f"resnet{depth}"
    source = "He et al., arXiv 1512.03385, table 1"
    return ModelInfo(name, "teacher", f"ResNet-{depth} (ImageNet)", 224, parameters, source, timm=name)


_RESNET, _WRN, _VGG = "resnet:CifarResNetX4", "wrn:WideResNet", "vgg:Vgg"
_WIDE = f"He et al., arXiv 1512.03385, section 4.2; four times as wide, {_SUITE}"
_ZAGORUYKO = "Zagoruyko & Komodakis, arXiv 1605.07146"
_SIMONYAN = f"Simonyan & Zisserman, arXiv 1409.1556; {_SUITE}"

CNNS = (
    _own("resnet8x4", "ResNet-8x4 (CIFAR)", 1_233_540, _WIDE, _RESNET, depth=8),
    _own("resnet32x4", "ResNet-32x4 (CIFAR)", 7_433_860, _WIDE, _RESNET, depth=32),
    _own("wrn_16_2", "WRN-16-2", 703_284, _ZAGORUYKO, _WRN, depth=16, width=2),
    _own("wrn_40_1", "WRN-40-1", 569_780, _ZAGORUYKO, _WRN, depth=40, width=1),
    _own("wrn_40_2", "WRN-40-2", 2_255_156, _ZAGORUYKO, _WRN, depth=40, width=2),
    _own("wrn_28_10", "WRN-28-10", 36_536_884, _ZAGORUYKO, _WRN, depth=28, width=10),
    _own("vgg8", "VGG-8 with BatchNorm", 3_965_028, _SIMONYAN, _VGG, depth=8),
    _own("vgg13", "VGG-13 with BatchNorm", 9_462_180, _SIMONYAN, _VGG, depth=13),
    _own(
        "mobilenet_v2",
        "MobileNetV2 (CIFAR)",
        2_351_972,
        "Sandler et al., arXiv 1801.04381, with strides for small images",
        "mobile:MobileNetV2",
    ),
    _own(
        "shufflenet_v2",
        "ShuffleNetV2 (CIFAR)",
        1_356_104,
        "Ma et al., arXiv 1807.11164, with strides for small images",
        "mobile:ShuffleNetV2",
    ),
    _own(
        "densenet_100_12",
        "DenseNet-BC-100-12",
        800_032,
        "Huang et al., arXiv 1608.06993",
        "densenet:DenseNet",
        depth=100,
        growth=12,
    ),
    _imagenet(18, 11_227_812),
    _imagenet(34, 21_335_972),
    _imagenet(50, 23_712_932),
)
