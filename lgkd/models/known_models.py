"""List the models that lgkd knows by name, a row each; no torch, so that listing is quick.

A new model is one file in lgkd/models and one row here.
"""

from lgkd.models.model_info import ModelInfo

# The ResNets of the CIFAR experiments.
_CIFAR_RESNET = "He et al., arXiv 1512.03385, section 4.2, with 1x1 projection shortcuts"
_RESNET_PARAMETERS = {8: 83_892, 20: 278_324, 32: 472_756, 44: 667_188, 56: 861_620, 110: 1_736_564}

RESNETS = tuple(
    ModelInfo(
        f"resnet{depth}",
        "teacher",
        f"ResNet-{depth} (CIFAR)",
        32,
        parameters,
        _CIFAR_RESNET,
        made_by="lgkd.models.cnn.resnet:CifarResNet",
        preset={"depth": depth},
    )
    for depth, parameters in _RESNET_PARAMETERS.items()
)

# The CNN teachers of the field besides the CIFAR ResNets.
_SUITE = "as in the distillation suite of Tian et al., arXiv 1910.10699"


def _own(
    name: str, title: str, parameters: int, source: str, made_by: str, **preset: int | str | tuple[int, ...]
) -> ModelInfo:
    made_by = f"lgkd.models.cnn.{made_by}"
    return ModelInfo(name, "teacher", title, 32, parameters, source, made_by=made_by, preset=preset)


def _imagenet(depth: int, parameters: int) -> ModelInfo:
    name = f"resnet{depth}"
    source = "He et al., arXiv 1512.03385, table 1"
    return ModelInfo(name, "teacher", f"ResNet-{depth} (ImageNet)", 224, parameters, source, timm=name)


_X4, _WRN, _VGG = "resnet:CifarResNetX4", "wide_resnet:WideResNet", "vgg:Vgg"
_WIDE = f"He et al., arXiv 1512.03385, section 4.2; four times as wide, {_SUITE}"
_ZAGORUYKO = "Zagoruyko & Komodakis, arXiv 1605.07146"
_SIMONYAN = f"Simonyan & Zisserman, arXiv 1409.1556; {_SUITE}"
_JORDAN = "after Jordan, arXiv 2404.00498, with maps of 32, 16 and 8"
_JORDAN_GUIDE = "after Jordan, arXiv 2404.00498, with maps of 16, 8 and 8"
_FAST = "fastnet:FastNet"
_GUIDE: dict[str, int | str] = {"output_stride": 4, "pool_first": True, "global_pool": "avg"}

CNNS = (
    _own("resnet8x4", "ResNet-8x4 (CIFAR)", 1_233_540, _WIDE, _X4, depth=8),
    _own("resnet32x4", "ResNet-32x4 (CIFAR)", 7_433_860, _WIDE, _X4, depth=32),
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
    _own("fastnet_small", "FastNet, widths 32, 64, 128", 309_504, _JORDAN, _FAST, widths=(32, 64, 128)),
    _own("fastnet_medium", "FastNet, widths 64, 256, 256", 2_001_024, _JORDAN, _FAST),
    _own("fastnet_large", "FastNet, widths 128, 384, 384", 4_650_880, _JORDAN, _FAST, widths=(128, 384, 384)),
    _own(
        "fastnet_guide",
        "FastNet for guidance, widths 64, 128, 256",
        1_189_504,
        _JORDAN_GUIDE,
        _FAST,
        widths=(64, 128, 256),
        **_GUIDE,
    ),
    _own(
        "fastnet_guide_large",
        "FastNet for guidance, widths 96, 192, 384",
        2_640_896,
        _JORDAN_GUIDE,
        _FAST,
        widths=(96, 192, 384),
        **_GUIDE,
    ),
    _imagenet(18, 11_227_812),
    _imagenet(34, 21_335_972),
    _imagenet(50, 23_712_932),
)

# Sizes and trainings that students are for: the first of each are their authors', the minutes lgkd's own.
_LARGE = "224 px"
_PATCHES = "224 px, smaller with patch_size"
_PYRAMID = "64 to 224 px"
_TINY = "32 to 64 px"
_GPU = "hours on a GPU"

# Students of the Locality Guidance paper that timm has. They compute the same as timm's, so that weights can be
# exchanged; the paper's code differs in two places. Its PiT gives block i of 12 a stochastic depth of i/12 of the rate,
# timm's i/11. Its PVTv2 has epsilon 1e-6 in all LayerNorms, timm's 1e-5 in ten: after the 4 patch embeddings'
# convolutions and in the 6 attentions that read a coarser map.
PAPER = (
    ModelInfo(
        "deit_tiny",
        "student",
        "DeiT-Tiny",
        224,
        5_543_716,
        "Touvron et al., arXiv 2012.12877",
        timm="deit_tiny_patch16_224",
        suits=f"{_PATCHES}; {_GPU}",
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
        suits=f"{_PYRAMID}; {_GPU}",
    ),
    ModelInfo(
        "pit_ti",
        "student",
        "PiT-Tiny",
        224,
        4_615_972,
        "Heo et al., arXiv 2103.16302",
        timm="pit_ti_224",
        suits=f"64 to {_LARGE}; {_GPU}",
    ),
    ModelInfo(
        "convit_tiny",
        "student",
        "ConViT-Tiny",
        224,
        5_536_812,
        "d'Ascoli et al., arXiv 2103.10697",
        timm="convit_tiny",
        suits=f"{_PATCHES}; {_GPU}",
    ),
)

# Students of the Locality Guidance paper that timm lacks: T2T-ViT, PVT and CvT.
_T2T = "Yuan et al., arXiv 2101.11986"

PYRAMIDS = (
    ModelInfo(
        "t2t_vit_7",
        "student",
        "T2T-ViT-7",
        224,
        4_078_922,
        _T2T,
        made_by="lgkd.models.t2t:T2TViT",
        suits=f"{_PATCHES}; {_GPU}",
    ),
    ModelInfo(
        "t2t_vit_14",
        "student",
        "T2T-ViT-14",
        224,
        21_199_050,
        _T2T,
        made_by="lgkd.models.t2t:T2TViT",
        preset={"embed_dim": 384, "depth": 14, "num_heads": 6, "mlp_ratio": 3.0},
        suits=f"{_PATCHES}; {_GPU}",
    ),
    ModelInfo(
        "pvt_tiny",
        "student",
        "PVT-Tiny",
        224,
        12_767_588,
        "Wang et al., arXiv 2102.12122",
        made_by="lgkd.models.pvt:PyramidVisionTransformer",
        suits=f"{_PYRAMID}; {_GPU}",
    ),
    ModelInfo(
        "cvt_13",
        "student",
        "CvT-13",
        224,
        19_650_980,
        "Wu et al., arXiv 2103.15808",
        made_by="lgkd.models.cvt:ConvolutionalVisionTransformer",
        suits=f"{_PATCHES}; {_GPU}",
    ),
)

# DHVT, a ViT for small data sets.
#
# Sizes of the paper's variants here, with the heads that are the defaults at that size. A multiply and an add count
# as one operation. "All" holds the two products inside attention; "layers" leaves them out and has one operation for
# each number that a norm outputs, which gives the paper's GFLOPs to every printed digit.
#
#     name   image  patch  heads  classes  parameters  paper   GFLOPs: all  layers  paper
#     tiny      32      4      4      100   6,008,650   6.0 M        0.388   0.368    0.4
#     tiny      32      2      4      100   5,845,162   5.8 M        1.705   1.398    1.4
#     small     32      4      8      100  23,425,450  23.4 M        1.529   1.483    1.5
#     small     32      2      8      100  22,766,698  22.8 M        6.195   5.561    5.6
#     tiny     224     16      4      345   6,105,975   6.1 M        1.358   1.178    1.2
#     small    224     16      6      345  23,788,431  23.8 M        5.033   4.664    4.7
#
# With 100 classes at 224 px they have 6,058,690 and 23,694,106 parameters.
_DHVT = "Lu et al., arXiv 2210.05958"
_DHVT_FACTORY = "lgkd.models.dhvt:DHVT"

DHVT = (
    ModelInfo(
        "dhvt_tiny",
        "student",
        "DHVT-T",
        32,
        6_008_650,
        _DHVT,
        made_by=_DHVT_FACTORY,
        preset={"width": 192},
        suits=f"{_TINY}; {_GPU}",
    ),
    ModelInfo(
        "dhvt_small",
        "student",
        "DHVT-S",
        32,
        23_425_450,
        _DHVT,
        made_by=_DHVT_FACTORY,
        preset={"width": 384},
        suits=f"{_TINY}; {_GPU}",
    ),
)

# Plain ViTs for small images.
#
# Published parameter counts of ViT-Lite, CVT and CCT are for 10 classes (3.717, 3.717, 3.760, 3.853 and 0.284 million,
# with learned positions); 90 more classes are 90 (D + 1) more parameters. SL-ViT's 2.9 million are for Tiny-ImageNet:
# 200 classes, 64 pixels, patches of 8. The counts here are for 100 classes at 32 pixels, as everywhere in this list.
_CCT = "Hassani et al., arXiv 2104.05704"
_PLAIN = "lgkd's own choice of Dosovitskiy et al., arXiv 2010.11929: 8 x 8 patches, mean pooling"
_CONV_PLAIN = "the same with the convolutional tokeniser of Hassani et al., arXiv 2104.05704"
_NAMED = (
    ("vit_lite", "ViT-Lite-7/4", 3_740_004, _CCT),
    ("cvt_7_4", "CVT-7/4", 3_739_749, _CCT),
    ("cct_7_3x1", "CCT-7/3x1", 3_783_269, _CCT),
    ("cct_7_3x2", "CCT-7/3x2", 3_876_389, _CCT),
    ("cct_2_3x2", "CCT-2/3x2", 295_333, _CCT),
    ("sl_vit", "SL-ViT (SPT and LSA)", 2_747_248, "Lee et al., arXiv 2112.13492"),
    ("poorvit", "PoorViT", 2_714_980, "Wu, arXiv 2501.06220"),
    ("vit_96", "ViT, width 96, depth 6", 691_780, _PLAIN),
    ("vit_128", "ViT, width 128, depth 6", 1_217_252, _PLAIN),
    ("vit_192", "ViT, width 192, depth 8", 3_600_292, _PLAIN),
    ("vit_96_conv", "ViT, width 96, depth 6, conv tokens", 715_588, _CONV_PLAIN),
    ("vit_128_conv", "ViT, width 128, depth 6, conv tokens", 1_248_708, _CONV_PLAIN),
    ("vit_192_conv", "ViT, width 192, depth 8, conv tokens", 3_647_044, _CONV_PLAIN),
)

_MINUTES = {
    "vit_96": "32 to 96 px; minutes on a CPU",
    "vit_128": "32 to 96 px; minutes to an hour on a CPU",
    "vit_192": "32 to 96 px; an hour and more on a CPU",
    "vit_96_conv": "32 to 96 px; minutes on a CPU",
    "vit_128_conv": "32 to 96 px; minutes to an hour on a CPU",
    "vit_192_conv": "32 to 96 px; an hour and more on a CPU",
    "cct_2_3x2": "32 to 64 px; minutes on a CPU",
}
"""Students for short trainings."""

SMALL_VITS = tuple(
    ModelInfo(
        name,
        "student",
        title,
        32,
        parameters,
        source,
        made_by=f"lgkd.models.vit.named:{name}",
        suits=_MINUTES.get(name, f"{_TINY}; {_GPU}"),
    )
    for name, title, parameters, source in _NAMED
)

KNOWN_MODELS: tuple[ModelInfo, ...] = (*RESNETS, *CNNS, *PAPER, *PYRAMIDS, *DHVT, *SMALL_VITS)
