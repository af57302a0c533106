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
from .comparison import draw_comparison, draw_courses
from .gaussians import draw_gaussians
from .losses import draw_losses
from .predictions import draw_objects, draw_predictions, pair
from .salient_points import draw_salient_points
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
    "draw_courses",
    "draw_curves",
    "draw_gaussians",
    "draw_instability",
    "draw_losses",
    "draw_objects",
    "draw_predictions",
    "draw_query_places",
    "draw_salient_points",
    "draw_sampling",
    "draw_scores",
    "draw_sweep",
    "pair",
]
