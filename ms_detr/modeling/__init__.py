"""The detector's rooms, from backbone maps to detections."""

from .box_prior import BoxPrior
from .decoder import Decoder
from .decoder_layer import DecoderLayer, Tap, Taps
from .detections import Detections
from .encoder import Encoder, EncoderLayer
from .groups import Groups, QueryGroup
from .heads import BoxHead, ClassHead, Heads, TapHeads
from .masks import AttentionBranch, DotProductBranch, MaskBranch
from .neck import Neck, SingleScaleNeck
from .postprocess import Postprocess, paste_masks
from .query_initializer import (
    LearnedInitializer,
    ProposalInitializer,
    QueryInitializer,
    TwoStageInitializer,
)
from .soft_nms import SoftNMS

__all__ = [
    "AttentionBranch",
    "BoxHead",
    "BoxPrior",
    "ClassHead",
    "Decoder",
    "DecoderLayer",
    "Detections",
    "DotProductBranch",
    "Encoder",
    "EncoderLayer",
    "Groups",
    "Heads",
    "LearnedInitializer",
    "MaskBranch",
    "Neck",
    "Postprocess",
    "ProposalInitializer",
    "QueryGroup",
    "QueryInitializer",
    "SingleScaleNeck",
    "SoftNMS",
    "Tap",
    "TapHeads",
    "Taps",
    "TwoStageInitializer",
    "paste_masks",
]
