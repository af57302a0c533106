"""Methods of the family, one small file each: only what differs."""

from .conditional import ConditionalInitializer
from .dab import DABInitializer
from .dab_deformable import AnchorInitializer, Anchors
from .detr import PositionInitializer
from .dino import DINOInitializer
from .federated import FederatedLoss
from .sam import BoxInitializer
from .smca import SMCAInitializer

__all__ = [
    "AnchorInitializer",
    "Anchors",
    "BoxInitializer",
    "ConditionalInitializer",
    "DABInitializer",
    "DINOInitializer",
    "FederatedLoss",
    "PositionInitializer",
    "SMCAInitializer",
]
