"""The ResNets of the CIFAR experiments."""

from lgkd.models.known.info import ModelInfo

_SOURCE = "He et al., arXiv 1512.03385, section 4.2, with 1x1 projection shortcuts"
_PARAMETERS = {8: 83_892, 20: 278_324, 32: 472_756, 44: 667_188, 56: 861_620, 110: 1_736_564}

RESNETS = tuple(
    ModelInfo(
        f"resnet{depth}",
        "teacher",
        f"ResNet-{depth} (CIFAR)",
        32,
        parameters,
        _SOURCE,
        made_by="lgkd.models.resnet:CifarResNet",
        preset={"depth": depth},
    )
    for depth, parameters in _PARAMETERS.items()
)
