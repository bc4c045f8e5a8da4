"""Names of teachers and students and what is known of them; no torch, so that listing is quick."""

from dataclasses import dataclass, field
from typing import Literal

from lgkd.errors import ModelError, did_you_mean

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that lgkd knows by name.

    Attributes:
        name: what users type.
        role: what it is listed as; either role may be played by any model.
        title: the name in the literature.
        image_size: pixels of the side of its images unless told otherwise.
        parameters: count with 100 classes at `image_size`.
        source: where the architecture comes from.
        timm: name in timm, for models that timm builds.
        depth: for CIFAR ResNets.
    """

    name: str
    role: Role
    title: str
    image_size: int
    parameters: int
    source: str
    timm: str | None = None
    depth: int | None = None
    aliases: tuple[str, ...] = field(default=())


_RESNET = "He et al., arXiv 1512.03385, section 4.2, with 1x1 projection shortcuts"

MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("resnet8", "teacher", "ResNet-8 (CIFAR)", 32, 83_892, _RESNET, depth=8),
        ModelInfo("resnet20", "teacher", "ResNet-20 (CIFAR)", 32, 278_324, _RESNET, depth=20),
        ModelInfo("resnet32", "teacher", "ResNet-32 (CIFAR)", 32, 472_756, _RESNET, depth=32),
        ModelInfo("resnet44", "teacher", "ResNet-44 (CIFAR)", 32, 667_188, _RESNET, depth=44),
        ModelInfo("resnet56", "teacher", "ResNet-56 (CIFAR)", 32, 861_620, _RESNET, depth=56),
        ModelInfo("resnet110", "teacher", "ResNet-110 (CIFAR)", 32, 1_736_564, _RESNET, depth=110),
        ModelInfo(
            "deit_tiny",
            "student",
            "DeiT-Tiny",
            224,
            5_543_716,
            "Touvron et al., arXiv 2012.12877",
            timm="deit_tiny_patch16_224",
        ),
        ModelInfo(
            "pvt_v2_b0",
            "student",
            "PVTv2-B0",
            224,
            3_435_460,
            "Wang et al., arXiv 2106.13797",
            timm="pvt_v2_b0",
            aliases=("pvtv2",),
        ),
        ModelInfo("pit_ti", "student", "PiT-Tiny", 224, 4_615_972, "Heo et al., arXiv 2103.16302", timm="pit_ti_224"),
        ModelInfo(
            "convit_tiny",
            "student",
            "ConViT-Tiny",
            224,
            5_536_812,
            "d'Ascoli et al., arXiv 2103.10697",
            timm="convit_tiny",
        ),
    )
}
_BY_ALIAS = {alias: info.name for info in MODELS.values() for alias in info.aliases}


def names(role: Role | None = None) -> list[str]:
    """The names of one role, or of both."""
    return [name for name, info in MODELS.items() if role is None or info.role == role]


def canonical(name: str) -> str:
    """The name a model is kept under: aliases give way, `timm:` and `module:factory` names stay."""
    return _BY_ALIAS.get(name, name)


def find(name: str) -> ModelInfo | None:
    """What is known of a name; None for `timm:NAME` and `package.module:factory`.

    Raises:
        ModelError: neither known nor of one of those forms.
    """
    known = canonical(name)
    if known in MODELS:
        return MODELS[known]
    if ":" in name:
        return None
    raise ModelError(
        f"no model is called {name!r}; {did_you_mean(name, [*MODELS, *_BY_ALIAS])} "
        "Any timm classifier is `timm:NAME`, a model of your own `package.module:factory`"
    )
