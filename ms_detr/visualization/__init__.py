"""Pictures."""

from .analyses import (
    draw_conflicts,
    draw_curves,
    draw_instability,
    draw_query_places,
    draw_scores,
)
from .assignments import assigned, draw_assignments
from .candidates import draw_candidates
from .comparison import draw_comparison
from .losses import draw_losses
from .predictions import draw_objects, draw_predictions, pair
from .sampling import draw_sampling
from .scene import choose
from .sweep import draw_sweep

__all__ = [
    "assigned",
    "choose",
    "draw_assignments",
    "draw_candidates",
    "draw_comparison",
    "draw_conflicts",
    "draw_curves",
    "draw_instability",
    "draw_losses",
    "draw_objects",
    "draw_predictions",
    "draw_query_places",
    "draw_sampling",
    "draw_scores",
    "draw_sweep",
    "pair",
]
