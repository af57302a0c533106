"""Pictures."""

from .assignments import assigned, draw_assignments
from .candidates import draw_candidates
from .comparison import draw_comparison
from .losses import draw_losses
from .predictions import draw_predictions, pair
from .sampling import draw_sampling
from .sweep import draw_sweep

__all__ = [
    "assigned",
    "draw_assignments",
    "draw_candidates",
    "draw_comparison",
    "draw_losses",
    "draw_predictions",
    "draw_sampling",
    "draw_sweep",
    "pair",
]
