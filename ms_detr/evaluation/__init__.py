"""Evaluation: COCO's box and mask AP, with and without NMS."""

from .coco import CocoEvaluator, read_results
from .inference import evaluate, evaluating
from .table import format_results

__all__ = ["CocoEvaluator", "evaluate", "evaluating", "format_results", "read_results"]
