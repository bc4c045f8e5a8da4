# Written by python -m tools.loss_table.
from torch import nn

from lgkd.losses.attention_relations import AttentionRelations as AttentionRelations
from lgkd.losses.attention_transfer import AttentionTransfer as AttentionTransfer
from lgkd.losses.block_guidance import BlockGuidance as BlockGuidance
from lgkd.losses.correlation_congruence import CorrelationCongruence as CorrelationCongruence
from lgkd.losses.crd import CRD as CRD
from lgkd.losses.cross_correlation import CrossCorrelation as CrossCorrelation
from lgkd.losses.deit import DeiTHard as DeiTHard
from lgkd.losses.deit import DeiTSoft as DeiTSoft
from lgkd.losses.dense_kd import DenseKD as DenseKD
from lgkd.losses.dist import DIST as DIST
from lgkd.losses.dkd import DKD as DKD
from lgkd.losses.early_exits import EarlyExits as EarlyExits
from lgkd.losses.hint import Hint as Hint
from lgkd.losses.kd import KD as KD
from lgkd.losses.luminet import LumiNet as LumiNet
from lgkd.losses.map_loss import MapLoss as MapLoss
from lgkd.losses.masked_images import MaskedImages as MaskedImages
from lgkd.losses.relative_localization import DenseRelativeLocalization as DenseRelativeLocalization
from lgkd.losses.review_kd import ReviewKD as ReviewKD
from lgkd.losses.rkd import RKD as RKD
from lgkd.losses.similarity_preserving import SimilarityPreserving as SimilarityPreserving
from lgkd.losses.standardized_kd import StandardizedDKD as StandardizedDKD
from lgkd.losses.standardized_kd import StandardizedKD as StandardizedKD
from lgkd.losses.target_enhanced_kd import TargetEnhancedKD as TargetEnhancedKD
from lgkd.losses.teacher_head import TeacherHead as TeacherHead
from lgkd.losses.token_relations import TokenRelations as TokenRelations

TERMS: dict[str, type[nn.Module]]
