"""DHVT, a ViT for small data sets.

What the paper's variants come to here, with the heads that are the defaults at that size. A multiply and an add count
as one operation. "All" holds the two products inside attention; "layers" leaves them out and has one operation for each
number that a norm puts out, which gives the paper's GFLOPs to every printed digit.

    name   image  patch  heads  classes  parameters  paper   GFLOPs: all  layers  paper
    tiny      32      4      4      100   6,008,650   6.0 M        0.388   0.368    0.4
    tiny      32      2      4      100   5,845,162   5.8 M        1.705   1.398    1.4
    small     32      4      8      100  23,425,450  23.4 M        1.529   1.483    1.5
    small     32      2      8      100  22,766,698  22.8 M        6.195   5.561    5.6
    tiny     224     16      4      345   6,105,975   6.1 M        1.358   1.178    1.2
    small    224     16      6      345  23,788,431  23.8 M        5.033   4.664    4.7

With 100 classes at 224 px they have 6,058,690 and 23,694,106 parameters.
"""

from lgkd.models.known.info import ModelInfo

_SOURCE = "Lu et al., arXiv 2210.05958"
_MADE_BY = "lgkd.models.dhvt:DHVT"

DHVT = (
    ModelInfo("dhvt_tiny", "student", "DHVT-T", 32, 6_008_650, _SOURCE, made_by=_MADE_BY, preset={"width": 192}),
    ModelInfo("dhvt_small", "student", "DHVT-S", 32, 23_425_450, _SOURCE, made_by=_MADE_BY, preset={"width": 384}),
)
