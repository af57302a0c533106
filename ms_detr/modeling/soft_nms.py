"""Soft-NMS: what overlaps a better detection of its class loses score, instead of going."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..layers.boxes import box_iou, xyxy_to_cxcywh
from ..layers.rows import rows_of
from .detections import Detections

GONE = -1.0  # in the place of a score


class SoftNMS:
    """Linear soft-NMS class by class (arXiv:1704.04503, Eq. 3), as Co-DINO has it.

    The best detection is taken, again and again. Every other one of its class that overlaps it by
    the threshold or more has its score multiplied by 1 - IoU; then all that score too low are
    dropped, whatever their class.

    Args:
        candidates: how many detections of an image it is given, the best.
        iou_threshold: least IoU that costs score.
        min_score: least score of what is left once a detection has been taken.
    """

    def __init__(self, candidates: int, iou_threshold: float = 0.8, min_score: float = 1e-3):
        if candidates < 1:
            raise ConfigError(f"soft-NMS needs at least 1 candidate, got {candidates}")
        for name, value in (("iou_threshold", iou_threshold), ("min_score", min_score)):
            if not 0 <= value <= 1:
                raise ConfigError(f"soft-NMS's {name} is from 0 to 1, got {value}")
        self.candidates = candidates
        self.iou_threshold = iou_threshold
        self.min_score = min_score

    def __call__(self, found: Detections, keep: int) -> Detections:
        """The first ``keep`` that are taken of every image, with what is left of their scores.

        Waits for the device once, to learn how many are left of every image.
        """
        decay = self._decay(found)
        scores = found.scores.to(decay.dtype)
        taken, left = [], []
        for _ in range(min(keep, scores.shape[1])):
            score, best = scores.max(1, keepdim=True)
            taken.append(best)
            left.append(score)
            row = rows_of(decay, best)[:, 0]
            decayed = (scores * row).scatter(1, best, GONE)
            scores = decayed.where((decayed > 0) & (decayed >= self.min_score), GONE)
        order, rest = torch.cat(taken, 1), torch.cat(left, 1)
        counts = (rest > 0).sum(1).tolist()
        return Detections(
            rows_of(found.boxes, order),
            rest.clamp(min=0),
            found.labels.gather(1, order),
            found.queries.gather(1, order),
            tuple(counts),
        )

    def _decay(self, found: Detections) -> Tensor:
        """What every detection's taking multiplies every other score by, (B, n, n)."""
        boxes = xyxy_to_cxcywh(found.boxes)
        iou = box_iou(boxes[:, :, None], boxes[:, None])
        rivals = found.labels[:, :, None] == found.labels[:, None]
        return (1 - iou).where(rivals & (iou >= self.iou_threshold), 1.0)
