"""COCO's metrics, class by class.

A class's precision and recall depend on its own objects and detections alone, and on the images
that have any of either. So the library's evaluation, which wants a dict of every object and every
detection, gets one class at a time: what it takes is bounded by the largest class, not by the
dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as coco_mask

from ..data import GroundTruth
from ..data.areas import LARGEST_AREA
from .detections import Detections
from .table import CLASS_PREFIX

MAX_DETECTIONS = 100  # COCO's, of a class in an image


@dataclass(frozen=True, eq=False)
class ClassScores:
    """What COCO's metric knows of one class; -1 where there is no object.

    Attributes:
        precision: (IoUs, recalls, 1, sizes) at the highest limit of detections.
        recall: (IoUs, 1, sizes, limits).
    """

    precision: np.ndarray
    recall: np.ndarray


def score(
    truth: GroundTruth,
    detections: Detections,
    kind: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
) -> list[dict[str, float]]:
    """Return COCO's metrics in percent, of all classes: see `score_classes` and `in_percent`."""
    classes = range(len(truth.category_ids))
    return [
        in_percent(scores, truth.class_names, max_detections)
        for scores in score_classes(truth, detections, classes, kind, max_detections)
    ]


def score_classes(
    truth: GroundTruth,
    detections: Detections,
    classes: Iterable[int],
    kind: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
) -> list[dict[int, ClassScores]]:
    """Score some classes.

    Args:
        detections: all those of these classes; of others they are passed over.
        kind: what is compared: "bbox", the boxes, or "segm", the masks.
        max_detections: so many of a class in an image take part, those of the highest scores.

    Returns:
        By class, of all detections, and of those that survive NMS if it was done.
    """
    survives = detections.survives
    scores: list[dict[int, ClassScores]] = [{} for _ in range(1 if survives is None else 2)]
    count = len(truth.category_ids)
    objects_of, found_of = (
        rows_of_classes(truth.classes, count),
        rows_of_classes(detections.classes, count),
    )
    for k in classes:
        category, ours, theirs = truth.category_ids[k], objects_of[k], found_of[k]
        # The library keeps ids as doubles: images are numbered, in the order of their ids.
        images = np.union1d(truth.images[ours], detections.images[theirs])
        objects = _entries(category, object_columns(truth, ours, kind), images)
        found = _entries(category, detection_columns(truth, detections, theirs, kind), images)
        content = {"images": _images(truth, images), "categories": [{"id": category}]}
        known = COCO(content | {"annotations": objects})
        limits = _limits(max_detections)
        scores[0][k] = _evaluate(known, found, kind, limits)
        if survives is not None:
            scores[1][k] = _evaluate(known, [*compress(found, survives[theirs])], kind, limits)
    return scores


def in_percent(
    scores: Mapping[int, ClassScores], class_names: Sequence[str], max_detections: int
) -> dict[str, float]:
    """Average over classes, as COCO does; NaN where there is nothing that could be found.

    Args:
        scores: of all classes, by their numbers.
        max_detections: what they were scored with.

    Returns:
        AP (the mean over IoUs of 0.50 to 0.95), AP50, AP75; APs, APm, APl of small, medium and
        large objects; AR@n with at most n detections; ARs@n, ARm@n, ARl@n; AP-<class>.
    """
    ordered = [scores[k] for k in range(len(class_names))]
    precision = np.concatenate([each.precision for each in ordered], 2)
    recall = np.concatenate([each.recall for each in ordered], 1)
    limits = _limits(max_detections)
    result = {"AP": _mean(precision[..., 0])}
    # IoUs are 0.50, 0.55, ... 0.95.
    result |= {"AP50": _mean(precision[0, ..., 0]), "AP75": _mean(precision[5, ..., 0])}
    for number, size in enumerate("sml", 1):
        result[f"AP{size}"] = _mean(precision[..., number])
    for number, limit in enumerate(limits):
        result[f"AR@{limit}"] = _mean(recall[..., 0, number])
    for number, size in enumerate("sml", 1):
        result[f"AR{size}@{limits[-1]}"] = _mean(recall[..., number, -1])
    for number, name in enumerate(class_names):
        result[CLASS_PREFIX + name] = _mean(precision[:, :, number, 0])
    return result


def _limits(max_detections: int) -> list[int]:
    return sorted({1, min(10, max_detections), max_detections})


def metric_names(class_names: Sequence[str], max_detections: int = MAX_DETECTIONS) -> list[str]:
    """Return the names of the metrics that `score` returns."""
    nothing = ClassScores(
        np.full((10, 1, 1, 4), -1.0), np.full((10, 1, 4, len(_limits(max_detections))), -1.0)
    )
    return [
        *in_percent(dict.fromkeys(range(len(class_names)), nothing), class_names, max_detections)
    ]


def rows_of_classes(classes: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the places of each class, in their order."""
    order = np.argsort(classes, kind="stable")
    return np.split(order, np.searchsorted(classes[order], range(1, count)))


def _images(truth: GroundTruth, images: np.ndarray) -> list[dict[str, int]]:
    sizes = (truth.sizes[image] for image in images.tolist())
    return [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes)]


def object_columns(truth: GroundTruth, rows: np.ndarray, kind: str) -> dict[str, list]:
    """Return the columns of the library's table of objects: image_id, area, iscrowd, shape."""
    columns = {
        "image_id": truth.images[rows].tolist(),
        "area": truth.areas[rows].tolist(),
        "iscrowd": truth.crowds[rows].astype(int).tolist(),
    }
    if kind == "bbox":
        return columns | {"bbox": truth.boxes[rows].tolist()}
    return columns | {"segmentation": _runs(truth, truth.masks, columns["image_id"], rows)}


def detection_columns(
    truth: GroundTruth, detections: Detections, rows: np.ndarray, kind: str
) -> dict[str, list]:
    """Return the columns of the library's table of detections: image_id, score, area, shape."""
    columns = {
        "image_id": detections.images[rows].tolist(),
        "score": detections.scores[rows].tolist(),
    }
    if kind == "bbox":
        boxes = detections.boxes[rows].astype(np.float64)
        # COCO passes over areas out of its range. A wrong detection mustn't get away by them.
        areas = (boxes[:, 2] * boxes[:, 3]).clip(0, LARGEST_AREA)
        return columns | {"bbox": boxes.tolist(), "area": areas.tolist()}
    runs = _runs(truth, detections.masks, columns["image_id"], rows)
    # One by one: of more than 255 at a time pycocotools 2.0.11 knows no area.
    return columns | {"segmentation": runs, "area": [int(coco_mask.area(each)) for each in runs]}


def _runs(
    truth: GroundTruth, masks: Sequence[bytes] | None, images: list[int], rows: np.ndarray
) -> list[dict[str, Any]]:
    assert masks is not None
    return [
        {"size": list(truth.sizes[image]), "counts": masks[row]}
        for image, row in zip(images, rows.tolist(), strict=True)
    ]


def _entries(category: int, columns: dict[str, list], images: np.ndarray) -> list[dict[str, Any]]:
    """Make the dicts that the library wants. They are numbered from 1: its 0 means "no match"."""
    columns["image_id"] = np.searchsorted(images, columns["image_id"]).tolist()
    rows = enumerate(zip(*columns.values(), strict=True), 1)
    fixed = {"category_id": category}
    return [{"id": n, **dict(zip(columns, row, strict=True)), **fixed} for n, row in rows]


def _evaluate(
    known: COCO, found: list[dict[str, Any]], kind: str, limits: Sequence[int]
) -> ClassScores:
    """Let the library evaluate one class's detections."""
    detected = COCO(known.dataset | {"annotations": found})
    evaluation = COCOeval_faster(known, detected, kind, print_function=_ignore)
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return ClassScores(
        evaluation.eval["precision"][..., -1].copy(), np.asarray(evaluation.eval["recall"])
    )


def _ignore(*_: Any) -> None:
    """Print nothing."""


def _mean(values: np.ndarray) -> float:
    """Average in percent the values that aren't -1, which COCO writes where there is no object."""
    values = values[values > -1]
    return float(np.mean(values)) * 100 if values.size else math.nan
