"""What NMS would take away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.detections import Detections
from .curves import Curve, draw
from .run import Series

SCORES = np.array([0.0, *np.arange(1, 20) / 20])


@dataclass(frozen=True)
class Duplicates:
    """Detections an image, before and after NMS.

    Attributes:
        rows: of some score thresholds (score, before, after).
    """

    nms_threshold: float
    curve: Curve
    rows: list[tuple[float, float, float]]


def count_duplicates(detections: Detections, images: int, nms_threshold: float) -> Duplicates:
    """Count the detections from each score on, all and those that survive NMS, an image."""
    survives = detections.survives
    assert survives is not None
    before, after = (
        (len(scores) - np.searchsorted(np.sort(scores), SCORES)) / images
        for scores in (detections.scores, detections.scores[survives])
    )
    lines = {"all": Series(SCORES, before), "left by NMS": Series(SCORES, after)}
    log = bool((after > 0).all())
    curve = draw("detections an image", lines, "detections an image", log, "least score")
    chosen = [0, 2, 6, 10]
    rows = [(float(SCORES[k]), float(before[k]), float(after[k])) for k in chosen]
    return Duplicates(nms_threshold, curve, rows)
