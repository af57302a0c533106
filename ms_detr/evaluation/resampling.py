"""COCO's AP of any choice of a dataset's images, each as often as it is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .matches import IOUS, ClassMatches
from .table import CLASS_PREFIX

RECALLS = np.linspace(0.0, 1.0, 101)
CELLS = 4_000_000  # of an array at a time


def average_precision(matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """Return a class's AP on several choices of the images, as fractions.

    It is what COCO's metric gives on a dataset that has each image so many times. Detections of
    one image that have the same class and score, which a copy of the image would make change
    places, are taken in their order.

    Args:
        weights: (images, D) int, how often each choice has an image.

    Returns:
        (sizes, IoUs, D): the mean of the precision at 101 recalls; NaN without an object.
    """
    width = weights.shape[1]
    result = np.empty((len(matches.objects), len(IOUS), width))
    step = max(1, CELLS // max(1, len(matches.images)))
    for start in range(0, width, step):
        part = slice(start, start + step)
        result[..., part] = _average_precision(matches, weights[:, part])
    return result


def _average_precision(matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
    each = weights[matches.images]
    result = np.zeros((len(matches.objects), len(IOUS), weights.shape[1]))
    for size, shown in enumerate(matches.objects):
        objects = weights[matches.object_images[shown]].sum(0)
        for threshold, right in enumerate(matches.right[size]):
            # Precision matters where recall rises: at what is right.
            places = np.flatnonzero(right)
            if len(places):
                counted = matches.counted[size, threshold, : places[-1] + 1]
                result[size, threshold] = _area(each, places, counted, objects)
        result[size][:, objects == 0] = np.nan
    return result


def _area(
    each: np.ndarray, places: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """The mean of the precision at all recalls, (D,).

    Args:
        each: (n, D), how often each detection is there.
        places: (P,) of those that are right.
        counted: (n,) of those up to the last of these.
        objects: (D,).
    """
    starts = np.concatenate(([0], places[:-1] + 1))
    number = np.add.reduceat(each[: len(counted)] * counted[:, None], starts).cumsum(0)
    found = each[places].cumsum(0)
    precision = found / (number + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    recall = found / np.maximum(objects, 1)
    reached = np.searchsorted(RECALLS, recall, "right")
    return (best * np.diff(reached, axis=0, prepend=0)).sum(0) / len(RECALLS)


def metrics(precision: np.ndarray, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Average over classes, as COCO does, in percent; NaN where there is no object.

    Args:
        precision: (classes, sizes, IoUs, D), see `average_precision`.

    Returns:
        (D,) each: AP, AP50, AP75, APs, APm, APl, and AP-<class>.
    """
    found = {
        "AP": _mean(precision[:, 0], (0, 1)),
        "AP50": _mean(precision[:, 0, 0], 0),
        "AP75": _mean(precision[:, 0, 5], 0),
    }
    for size, letter in enumerate("sml", 1):
        found[f"AP{letter}"] = _mean(precision[:, size], (0, 1))
    for number, name in enumerate(class_names):
        found[CLASS_PREFIX + name] = _mean(precision[number, 0], 0)
    return found


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The mean in percent of what isn't NaN."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(axis) / there.sum(axis) * 100
