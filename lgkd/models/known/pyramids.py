"""Students of the Locality Guidance paper that timm lacks: T2T-ViT, PVT and CvT."""

from lgkd.models.known.info import ModelInfo

_T2T = "Yuan et al., arXiv 2101.11986"

PYRAMIDS = (
    ModelInfo("t2t_vit_7", "student", "T2T-ViT-7", 224, 4_078_922, _T2T, made_by="lgkd.models.t2t:T2TViT"),
    ModelInfo(
        "t2t_vit_14",
        "student",
        "T2T-ViT-14",
        224,
        21_199_050,
        _T2T,
        made_by="lgkd.models.t2t:T2TViT",
        preset={"embed_dim": 384, "depth": 14, "num_heads": 6, "mlp_ratio": 3.0},
    ),
    ModelInfo(
        "pvt_tiny",
        "student",
        "PVT-Tiny",
        224,
        12_767_588,
        "Wang et al., arXiv 2102.12122",
        made_by="lgkd.models.pvt:PyramidVisionTransformer",
    ),
    ModelInfo(
        "cvt_13",
        "student",
        "CvT-13",
        224,
        19_650_980,
        "Wu et al., arXiv 2103.15808",
        made_by="lgkd.models.cvt:ConvolutionalVisionTransformer",
    ),
)
