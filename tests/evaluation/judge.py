"""pycocotools on the same objects and detections: the judge of every metric."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZES = ("small", "medium", "large")


def judge(
    content: dict, detections: Sequence[dict], names: dict[int, str], kind: str = "bbox", most=100
) -> dict[str, float]:
    """All metrics in percent, NaN where there is no object.

    Args:
        content: an annotation file's, complete and with nothing wrong in it; ids from 1.
        detections: COCO's results.
        names: of the classes, by category id.
    """
    unwanted = "bbox" if kind == "segm" else "segmentation"
    detections = [{k: v for k, v in d.items() if k != unwanted} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = content
        truth.createIndex()
        if detections:
            found = truth.loadRes(detections)
        else:
            found.dataset = {**content, "annotations": []}
            found.createIndex()
        scoring = COCOeval(truth, found, kind)
        scoring.params.maxDets = [1, min(10, most), most]
        scoring.evaluate()
        scoring.accumulate()

        def mean(recall=False, **selected) -> float:
            value = _summarize(scoring, recall, **selected)
            return value * 100 if value >= 0 else math.nan

        result = {"AP": mean(), "AP50": mean(iou=0.5), "AP75": mean(iou=0.75)}
        result |= {f"AP{size[0]}": mean(size=size) for size in SIZES}
        result |= {f"AR@{n}": mean(True, limit=n) for n in scoring.params.maxDets}
        result |= {f"AR{size[0]}@{most}": mean(True, size=size) for size in SIZES}
        for k, category in enumerate(scoring.params.catIds):
            values = scoring.eval["precision"][:, :, k, 0, -1]
            values = values[values > -1]
            result[f"AP-{names[category]}"] = (
                float(values.mean()) * 100 if values.size else math.nan
            )
    return result


def _summarize(scoring, recall=False, iou=None, size="all", limit=None) -> float:
    """What COCOeval.summarize averages, whose own summary knows the limits 1, 10 and 100 alone."""
    values = scoring.eval["recall" if recall else "precision"]
    if iou is not None:
        values = values[np.isclose(scoring.params.iouThrs, iou)]
    limits = scoring.params.maxDets
    values = values[..., scoring.params.areaRngLbl.index(size), limits.index(limit or limits[-1])]
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
