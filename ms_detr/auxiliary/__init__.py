"""Detection heads beside the decoder, which train the encoder one-to-many."""

from .branch import Adapter, Auxiliary, AuxiliaryHead, AuxiliaryHeads, Found
from .pyramid import Pyramid
from .rcnn import FasterRCNNHead
from .sampling import RandomSampler

__all__ = [
    "Adapter",
    "Auxiliary",
    "AuxiliaryHead",
    "AuxiliaryHeads",
    "FasterRCNNHead",
    "Found",
    "Pyramid",
    "RandomSampler",
]
