"""Evaluation: COCO's box and mask AP, with and without NMS."""

from .coco import CocoEvaluator, read_results
from .inference import evaluate, evaluating
from .scoring import MAX_DETECTIONS
from .table import format_results
from .unwritten import UnwrittenError

__all__ = [
    "MAX_DETECTIONS",
    "CocoEvaluator",
    "UnwrittenError",
    "evaluate",
    "evaluating",
    "format_results",
    "read_results",
]
