"""The detector's rooms, from backbone maps to detections."""

from .decoder import Decoder
from .decoder_layer import DecoderLayer, Tap, Taps
from .encoder import Encoder, EncoderLayer
from .heads import BoxHead, ClassHead, Heads, TapHeads
from .neck import Neck
from .postprocess import Detections, Postprocess
from .query_initializer import LearnedInitializer, QueryInitializer, TwoStageInitializer

__all__ = [
    "BoxHead",
    "ClassHead",
    "Decoder",
    "DecoderLayer",
    "Detections",
    "Encoder",
    "EncoderLayer",
    "Heads",
    "LearnedInitializer",
    "Neck",
    "Postprocess",
    "QueryInitializer",
    "Tap",
    "TapHeads",
    "Taps",
    "TwoStageInitializer",
]
