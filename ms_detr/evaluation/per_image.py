"""AP image by image."""

from __future__ import annotations

import numpy as np

from ..data import GroundTruth
from .detections import Detections
from .matches import match_classes
from .resampling import average_precision
from .scoring import MAX_DETECTIONS


def image_aps(
    truth: GroundTruth,
    detections: Detections,
    kind: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
) -> dict[int, float]:
    """Return COCO's AP of each image alone, in percent, by its id.

    The mean over the classes that the image shows and over IoUs of 0.50 to 0.95. Detections of
    other classes don't count; an image that shows no object has no value and isn't there.
    """
    ids = [*truth.sizes]
    once = np.ones((1, 1), np.int64)
    values: dict[int, list[float]] = {}
    for matches in match_classes(truth, detections, kind, max_detections):
        for image, alone in matches.by_image():
            value = float(average_precision(alone, once)[0].mean())
            if not np.isnan(value):  # else crowds alone
                values.setdefault(ids[image], []).append(value)
    return {image: float(np.mean(values[image])) * 100 for image in sorted(values)}
