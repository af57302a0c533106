"""Which detections are right, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from ..data import GroundTruth
from ..evaluation.detections import Detections
from ..evaluation.reading import by_image

IOU = 0.5
LEAST = 0.05  # score of what is looked at
THRESHOLDS = np.arange(1, 20) / 20


@dataclass(frozen=True)
class Tally:
    """What a score threshold makes of an image.

    Attributes:
        found: objects with a detection of their own.
        missed: the others.
        wrong: detections without an object.
    """

    found: int
    missed: int
    wrong: int

    @property
    def f(self) -> float:
        """The harmonic mean of precision and recall; 1 where there is nothing and nothing seen."""
        whole = 2 * self.found + self.missed + self.wrong
        return 2 * self.found / whole if whole else 1.0


@dataclass(frozen=True)
class ImageMatches:
    """The detections of an image, as far as they count.

    Attributes:
        scores: (n,) of those that count.
        right: (n,) bool.
        objects: how many there are.
    """

    scores: np.ndarray
    right: np.ndarray
    objects: int

    def tally(self, threshold: float) -> Tally:
        """Count what has at least this score."""
        right = self.right[self.scores >= threshold]
        found = int(right.sum())
        return Tally(found, self.objects - found, len(right) - found)


def match_images(
    truth: GroundTruth, detections: Detections, least: float = LEAST
) -> dict[int, ImageMatches]:
    """Match the detections of every image, by id, with its objects, as COCO's metric does.

    From the best score on a detection takes the object of its class, not taken yet, with which its
    box has the largest IoU, of 0.5 or more. What lies in a crowd by as much counts not at all.

    Args:
        least: score of what is looked at.
    """
    order = np.argsort(truth.images, kind="stable")
    objects, seen = by_image(truth.images[order]), by_image(detections.images)
    none = slice(0, 0)
    return {
        image: _match(
            truth, order[objects.get(image, none)], detections, seen.get(image, none), least
        )
        for image in truth.sizes
    }


def _match(
    truth: GroundTruth, objects: np.ndarray, detections: Detections, rows: slice, least: float
) -> ImageMatches:
    likely = detections.scores[rows] >= least
    boxes, scores = detections.boxes[rows][likely], detections.scores[rows][likely]
    classes = detections.classes[rows][likely]
    crowds = truth.crowds[objects]
    right, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    if len(objects) and len(boxes):
        ious = coco_mask.iou(boxes, truth.boxes[objects], crowds.astype(np.uint8))
        ious[classes[:, None] != truth.classes[objects]] = 0
        taken = np.zeros(len(objects), bool)
        for row, overlaps in enumerate(ious):
            free = np.where(taken | crowds, 0, overlaps)
            best = int(free.argmax())
            if free[best] >= IOU:
                right[row] = taken[best] = True
            elif (overlaps[crowds] >= IOU).any():
                counts[row] = False
    return ImageMatches(scores[counts], right[counts], int((~crowds).sum()))


def joined(matches: Mapping[int, ImageMatches]) -> ImageMatches:
    """The matches of all images as those of one."""
    each = list(matches.values())
    scores = np.concatenate([np.empty(0), *(m.scores for m in each)])
    right = np.concatenate([np.empty(0, bool), *(m.right for m in each)])
    return ImageMatches(scores, right, sum(m.objects for m in each))


def best_threshold(matches: Mapping[int, ImageMatches]) -> float:
    """The score at which the F of all images together is largest; the lowest of several."""
    whole = joined(matches)
    return float(max(THRESHOLDS, key=lambda score: whole.tally(score).f))
