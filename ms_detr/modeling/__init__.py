"""The detector's rooms, from backbone maps to detections."""

from .decoder import Decoder
from .decoder_layer import DecoderLayer, Tap, Taps
from .encoder import Encoder, EncoderLayer
from .heads import BoxHead, ClassHead
from .neck import Neck
from .postprocess import Detections, Postprocess
from .query_initializer import TwoStageInitializer

__all__ = [
    "BoxHead",
    "ClassHead",
    "Decoder",
    "DecoderLayer",
    "Detections",
    "Encoder",
    "EncoderLayer",
    "Neck",
    "Postprocess",
    "Tap",
    "Taps",
    "TwoStageInitializer",
]
