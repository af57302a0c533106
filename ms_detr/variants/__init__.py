"""Methods of the family, one small file each: only what differs."""

from .conditional import ConditionalInitializer
from .dab import DABInitializer
from .dab_deformable import AnchorInitializer, Anchors
from .detr import PositionInitializer
from .dino import DINOInitializer
from .smca import SMCAInitializer

__all__ = [
    "AnchorInitializer",
    "Anchors",
    "ConditionalInitializer",
    "DABInitializer",
    "DINOInitializer",
    "PositionInitializer",
    "SMCAInitializer",
]
