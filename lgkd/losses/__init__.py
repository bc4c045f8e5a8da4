"""Losses: plain modules, one family a file. They know no weight, no layer name and no schedule.

What a loss is given is the class attribute `reads`:

| reads | forward |
|---|---|
| "maps" | `(student_maps, teacher_maps)`: two lists of (B,C,h,w), equally long unless `all_blocks` |
| "logits" | `(student_logits, teacher_logits, targets)`: (B,K) twice, and (B,) class numbers or (B,K) probabilities |
| "distillation" | as "logits", the student's being those of its distillation head |
| "embeddings" | `(student_embedding, teacher_embedding)`: (B,D) and (B,C), what the classifiers' last layers read |

All give a scalar. `across_batch` says whether a sample's loss depends on the other samples; such a loss needs
the whole batch at once. A loss that learns has `build`, called once with what it will be given: shapes (C,h,w)
of all student maps and of all teacher maps, or the two widths of embeddings. `all_blocks` (only "maps")
says that the student's list holds the maps of all its blocks. No loss but `MapLoss` hands a gradient on to
the teacher's side.
"""

from torch import nn

from lgkd.losses.attention_transfer import AttentionTransfer
from lgkd.losses.block_guidance import BlockGuidance
from lgkd.losses.correlation_congruence import CorrelationCongruence
from lgkd.losses.cross_correlation import CrossCorrelation
from lgkd.losses.deit import DeiTHard, DeiTSoft
from lgkd.losses.dist import DIST
from lgkd.losses.dkd import DKD
from lgkd.losses.hint import Hint
from lgkd.losses.kd import KD
from lgkd.losses.luminet import LumiNet
from lgkd.losses.map_loss import MapLoss
from lgkd.losses.review_kd import ReviewKD
from lgkd.losses.rkd import RKD
from lgkd.losses.similarity_preserving import SimilarityPreserving
from lgkd.losses.standardized_kd import StandardizedDKD, StandardizedKD

TERMS: dict[str, type[nn.Module]] = {
    "locality": MapLoss,
    "blocks": BlockGuidance,
    "hint": Hint,
    "attention-transfer": AttentionTransfer,
    "similarity-preserving": SimilarityPreserving,
    "review": ReviewKD,
    "kd": KD,
    "deit-hard": DeiTHard,
    "deit-soft": DeiTSoft,
    "dkd": DKD,
    "dist": DIST,
    "standardized-kd": StandardizedKD,
    "standardized-dkd": StandardizedDKD,
    "luminet": LumiNet,
    "rkd": RKD,
    "cc": CorrelationCongruence,
    "cross-correlation": CrossCorrelation,
}
"""The kinds of terms that a recipe can name, and their losses."""

__all__ = [
    "DIST",
    "DKD",
    "KD",
    "RKD",
    "TERMS",
    "AttentionTransfer",
    "BlockGuidance",
    "CorrelationCongruence",
    "CrossCorrelation",
    "DeiTHard",
    "DeiTSoft",
    "Hint",
    "LumiNet",
    "MapLoss",
    "ReviewKD",
    "SimilarityPreserving",
    "StandardizedDKD",
    "StandardizedKD",
]
