"""What trained models look at, and how stably they learn: the analyses of Co-DETR."""

from .curves import Curve, Separation
from .maps import discriminability
from .samples import Sample
from .scores import Attention, Discriminability, Score

__all__ = [
    "Attention",
    "Curve",
    "Discriminability",
    "Sample",
    "Score",
    "Separation",
    "discriminability",
]
