"""Evaluation: COCO's box and mask AP, with and without NMS."""

from .coco import CocoEvaluator
from .inference import evaluate, evaluating, metrics_of
from .intervals import Difference, bootstrap
from .lvis import LvisEvaluator
from .results import UnwrittenError, read_results
from .scoring import MAX_DETECTIONS
from .table import format_results

__all__ = [
    "MAX_DETECTIONS",
    "CocoEvaluator",
    "Difference",
    "LvisEvaluator",
    "UnwrittenError",
    "bootstrap",
    "evaluate",
    "evaluating",
    "format_results",
    "metrics_of",
    "read_results",
]
