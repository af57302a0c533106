"""Pictures."""

from .predictions import draw_predictions

__all__ = ["draw_predictions"]
