"""Detection heads beside the decoder, which train the encoder one-to-many."""

from .anchors import AnchorGrid, Anchors, BoxCoder, Deltas, Distances
from .assigned import AnchorAssigner, Assigned
from .atss import ATSSAssigner, ATSSHead
from .branch import Adapter, Auxiliary, AuxiliaryHead, AuxiliaryHeads, Found
from .dense import DenseHead, DenseLosses
from .fcos import CenterAssigner, FCOSHead
from .pyramid import Pyramid
from .rcnn import FasterRCNNHead
from .retinanet import OverlapAssigner, RetinaNetHead
from .sampling import RandomSampler
from .selection import Selection

__all__ = [
    "ATSSAssigner",
    "ATSSHead",
    "Adapter",
    "AnchorAssigner",
    "AnchorGrid",
    "Anchors",
    "Assigned",
    "Auxiliary",
    "AuxiliaryHead",
    "AuxiliaryHeads",
    "BoxCoder",
    "CenterAssigner",
    "Deltas",
    "DenseHead",
    "DenseLosses",
    "Distances",
    "FCOSHead",
    "FasterRCNNHead",
    "Found",
    "OverlapAssigner",
    "Pyramid",
    "RandomSampler",
    "RetinaNetHead",
    "Selection",
]
