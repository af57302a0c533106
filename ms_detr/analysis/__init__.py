"""What trained models look at, and how stably they learn: the analyses of Co-DETR."""

from .conflict import Conflict
from .curves import Curve, Separation
from .instability import instability, matches
from .maps import discriminability
from .queries import QueryDistances, QueryPlaces, query_places
from .samples import Sample
from .scores import Attention, Discriminability, Score

__all__ = [
    "Attention",
    "Conflict",
    "Curve",
    "Discriminability",
    "QueryDistances",
    "QueryPlaces",
    "Sample",
    "Score",
    "Separation",
    "discriminability",
    "instability",
    "matches",
    "query_places",
]
