"""Methods of the family, one small file each: only what differs."""

from .dab_deformable import AnchorInitializer, Anchors
from .dino import DINOInitializer

__all__ = ["AnchorInitializer", "Anchors", "DINOInitializer"]
