"""Plain ViTs for small images.

Published parameter counts of ViT-Lite, CVT and CCT are for 10 classes (3.717, 3.717, 3.760, 3.853 and 0.284 million,
with learned positions); 90 more classes are 90 (D + 1) more parameters. SL-ViT's 2.9 million are for Tiny-ImageNet:
200 classes, 64 pixels, patches of 8. The counts here are for 100 classes at 32 pixels, as everywhere in the catalogue.
"""

from lgkd.models.known.info import ModelInfo

_CCT = "Hassani et al., arXiv 2104.05704"
_NAMED = (
    ("vit_lite", "ViT-Lite-7/4", 3_740_004, _CCT),
    ("cvt_7_4", "CVT-7/4", 3_739_749, _CCT),
    ("cct_7_3x1", "CCT-7/3x1", 3_783_269, _CCT),
    ("cct_7_3x2", "CCT-7/3x2", 3_876_389, _CCT),
    ("cct_2_3x2", "CCT-2/3x2", 295_333, _CCT),
    ("sl_vit", "SL-ViT (SPT and LSA)", 2_747_248, "Lee et al., arXiv 2112.13492"),
    ("poorvit", "PoorViT", 2_714_980, "Wu, arXiv 2501.06220"),
)

SMALL_VITS = tuple(
    ModelInfo(name, "student", title, 32, parameters, source, made_by=f"lgkd.models.vit.named:{name}")
    for name, title, parameters, source in _NAMED
)
