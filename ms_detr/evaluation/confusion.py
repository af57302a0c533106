"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from ..data import GroundTruth
from .detections import Detections
from .reading import by_image

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often objects of a class are detected as one.

    Attributes:
        class_names: K of them.
        counts: (K + 1, K + 1) int64, rows of the objects' classes, columns of the detections'. The
            last row has the detections without an object, the last column the objects without a
            detection; their common cell is 0.
        threshold: the least score of the detections.
        iou: the least that a detection overlaps its object.
    """

    class_names: tuple[str, ...]
    counts: np.ndarray
    threshold: float
    iou: float

    def largest(self, most: int) -> list[tuple[str, str, int]]:
        """Return the most frequent mistakes: what is there, what was detected, how often."""
        mistakes = self.counts - np.diag(np.diag(self.counts))
        names = [*self.class_names, BACKGROUND]
        order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
        places = zip(*np.unravel_index(order, mistakes.shape), strict=True)
        return [(names[i], names[j], int(mistakes[i, j])) for i, j in places if mistakes[i, j]]


def confusion(
    truth: GroundTruth, detections: Detections, threshold: float, iou: float = 0.5
) -> Confusion:
    """Match boxes with objects of any class, and count by their classes.

    In an image pairs of an object and a detection that overlap enough are taken one after the
    other, those of one class first, and of these and of the others those of the largest IoU; each
    object and each detection is taken once. Detections that are left and lie in a crowd of their
    class are passed over.

    Args:
        detections: image by image in the order of the ids, as `read_detections` returns them.
        threshold: least score of a detection that takes part.
        iou: the least IoU of a pair.
    """
    count = len(truth.class_names)
    counts = np.zeros((count + 1, count + 1), np.int64)
    order = np.argsort(truth.images, kind="stable")
    objects, rows = by_image(truth.images[order]), by_image(detections.images)
    for image in objects.keys() | rows.keys():
        here = order[objects.get(image, slice(0, 0))]
        found = np.arange(len(detections.scores))[rows.get(image, slice(0, 0))]
        found = found[detections.scores[found] >= threshold]
        crowds = truth.crowds[here]
        _count(counts, truth, detections, here[~crowds], found, here[crowds], iou)
    return Confusion(tuple(truth.class_names), counts, threshold, iou)


def _count(
    counts: np.ndarray,
    truth: GroundTruth,
    detections: Detections,
    objects: np.ndarray,
    found: np.ndarray,
    crowds: np.ndarray,
    least: float,
) -> None:
    """Count an image in place; objects, detections and crowds by their rows."""
    nothing = len(counts) - 1
    labels, guesses = truth.classes[objects], detections.classes[found]
    ious = _ious(truth, detections, objects, found)
    places, others = np.nonzero(ious >= least)
    differ = labels[places] != guesses[others]
    missed, left = np.ones(len(objects), bool), np.ones(len(found), bool)
    for k in np.lexsort((-ious[places, others], differ)).tolist():
        row, column = places[k], others[k]
        if missed[row] and left[column]:
            missed[row] = left[column] = False
            counts[labels[row], guesses[column]] += 1
    covered = _ious(truth, detections, crowds, found, crowd=True) >= least
    covered &= truth.classes[crowds][:, None] == guesses
    left &= ~covered.any(0)
    np.add.at(counts, (labels[missed], nothing), 1)
    np.add.at(counts, (nothing, guesses[left]), 1)


def _ious(
    truth: GroundTruth,
    detections: Detections,
    objects: np.ndarray,
    found: np.ndarray,
    crowd: bool = False,
) -> np.ndarray:
    """(objects, detections); of a crowd the share of the detection that lies in it."""
    if not len(objects) or not len(found):
        return np.zeros((len(objects), len(found)))
    boxes = detections.boxes[found].astype(np.float64)
    flags = np.full(len(objects), crowd, np.uint8)
    return coco_mask.iou(boxes, truth.boxes[objects], flags).T
