"""Students of the Locality Guidance paper that timm has."""

from lgkd.models.known.info import ModelInfo

PAPER = (
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
