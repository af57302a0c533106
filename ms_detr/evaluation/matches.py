"""Which detections of a class are right, at every IoU and for objects of every size.

What COCO's metric finds out image by image before it counts. The library that scores keeps it to
itself; here it is kept, so that any choice of images can be scored again without matching again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from ..data import GroundTruth
from ..data.areas import LARGEST_AREA, SIDES
from .detections import Detections
from .scoring import MAX_DETECTIONS, detection_columns, object_columns, rows_of_classes

IOUS = np.linspace(0.5, 0.95, 10)
SMALL, LARGE = (float(side**2) for side in SIDES)
# Of the objects that count: all, small, medium, large ones.
AREAS = np.array([(0, LARGEST_AREA), (0, SMALL), (SMALL, LARGE), (LARGE, LARGEST_AREA)])


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The n detections of a class, the best first, and its N objects.

    Images are numbered in the order of their ids. Of detections with one score those of the first
    image come first, as COCO's metric has them.

    Attributes:
        images: (n,) numbers of the detections' images.
        right: (sizes, IoUs, n) bool, there is an object for it that counts.
        counted: (sizes, IoUs, n) bool, right or wrong; others are passed over.
        object_images: (N,) numbers of the objects' images.
        objects: (sizes, N) bool, those that count.
    """

    images: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    object_images: np.ndarray
    objects: np.ndarray

    def by_image(self) -> Iterator[tuple[int, ClassMatches]]:
        """Yield each image that shows objects, by its number, as if it were alone.

        Objects of all sizes together are the only size left.
        """
        order = np.argsort(self.images, kind="stable")  # the best stay first
        numbers = self.images[order]
        for image in np.unique(self.object_images).tolist():
            rows = order[slice(*np.searchsorted(numbers, (image, image + 1)))]
            here = self.object_images == image
            yield (
                image,
                ClassMatches(
                    np.zeros(len(rows), np.int64),
                    self.right[..., rows],
                    self.counted[..., rows],
                    np.zeros(int(here.sum()), np.int64),
                    self.objects[:1, here],
                ),
            )


def match_classes(
    truth: GroundTruth,
    detections: Detections,
    kind: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
) -> Iterator[ClassMatches]:
    """Match the detections of each class with its objects, as COCO's metric does.

    Args:
        detections: of images of the dataset.
        kind: what is compared: "bbox", the boxes, or "segm", the masks.
        max_detections: so many of a class in an image take part, those of the highest scores.
    """
    count = len(truth.category_ids)
    ids = np.array([*truth.sizes], np.int64)
    objects, found = (rows_of_classes(x.classes, count) for x in (truth, detections))
    for ours, theirs in zip(objects, found, strict=True):
        yield _match_class(truth, detections, ids, ours, theirs, kind, max_detections)


def _match_class(
    truth: GroundTruth,
    detections: Detections,
    ids: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    kind: str,
    most: int,
) -> ClassMatches:
    """Match one class, of which objects and detections have these rows."""
    ours = ours[np.argsort(truth.images[ours], kind="stable")]
    order = np.lexsort((-detections.scores[theirs], detections.images[theirs]))
    theirs = theirs[order]
    images = np.searchsorted(ids, detections.images[theirs])
    rank = np.arange(len(images)) - np.searchsorted(images, images)
    theirs, images = theirs[rank < most], images[rank < most]
    object_images = np.searchsorted(ids, truth.images[ours])
    known, seen = (
        object_columns(truth, ours, kind),
        detection_columns(truth, detections, theirs, kind),
    )
    crowds = truth.crowds[ours]
    shown = _inside(known["area"]) & ~crowds
    right = np.zeros((len(AREAS), len(IOUS), len(theirs)), bool)
    passed = np.zeros_like(right)
    shape = "bbox" if kind == "bbox" else "segmentation"
    for image in np.intersect1d(images, object_images).tolist():
        there = slice(*np.searchsorted(images, (image, image + 1)))
        here = slice(*np.searchsorted(object_images, (image, image + 1)))
        ious = coco_mask.iou(seen[shape][there], known[shape][here], crowds[here].astype(np.uint8))
        own = right[..., there], passed[..., there]
        _match_image(ious, crowds[here], shown[:, here], *own)
    counted = ~passed & (right | _inside(seen["area"])[:, None])
    best = np.argsort(-detections.scores[theirs], kind="stable")
    return ClassMatches(images[best], right[..., best], counted[..., best], object_images, shown)


def _inside(areas: list[float]) -> np.ndarray:
    """Tell of each area by size whether it is of that size, both ends included: (sizes, n)."""
    values = np.array(areas, np.float64)
    return (values >= AREAS[:, :1]) & (values <= AREAS[:, 1:])


def _match_image(
    ious: np.ndarray, crowds: np.ndarray, shown: np.ndarray, right: np.ndarray, passed: np.ndarray
) -> None:
    """Match an image's n detections, the best first, with its N objects.

    A detection takes the object that overlaps it most, if it does so enough and isn't taken; where
    there is none, one that doesn't count, and is passed over with it.

    Args:
        ious: (n, N).
        crowds: (N,) bool; any number of detections lie in one.
        shown: (sizes, N) bool, the objects that count.
        right, passed: (sizes, IoUs, n) bool, all false; changed in place.
    """
    free = np.ones((len(AREAS), len(IOUS), len(crowds)), bool)
    for row in np.flatnonzero((ious >= IOUS[0]).any(1)):
        fits = (ious[row] >= IOUS[:, None]) & (free | crowds)
        for wanted, result in ((shown, right), (~shown, passed)):
            overlaps = np.where(fits & wanted[:, None], ious[row], -1.0)
            chosen = len(crowds) - 1 - overlaps[..., ::-1].argmax(-1)  # the last of equal ones
            hit = overlaps.max(-1) > 0
            result[..., row] = hit
            size, threshold = np.nonzero(hit)
            free[size, threshold, chosen[hit]] = False
            fits &= ~hit[..., None]
