"""What the detections on a dataset's images tell: numbers and pictures for a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..evaluation.detections import Detections
from ..evaluation.table import CLASS_PREFIX, METRICS
from .dataset import Images
from .duplicates import Duplicates, count_duplicates
from .images import COUNT, Picture, draw_images, worst_and_best
from .matching import LEAST, ImageMatches, Tally, best_threshold, joined, match_images

NMS = 0.7  # IoU, where the config has none
TASKS = ("bbox", "segm", "bbox_nms", "segm_nms")
Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Seen:
    """What the images of an evaluation tell.

    Attributes:
        problem: why there is nothing of it; else empty.
        threshold: the least score of what is drawn and counted.
        is_best: whether F over all images is largest at it.
        tally: of all images together, at that score.
        objects: of each class, by name, without crowds.
        matches: by image id.
    """

    problem: str = ""
    threshold: float = 0.0
    is_best: bool = True
    images: int = 0
    tally: Tally = field(default_factory=lambda: Tally(0, 0, 0))
    objects: dict[str, int] = field(default_factory=dict)
    duplicates: Duplicates | None = None
    worst: list[Picture] = field(default_factory=list)
    best: list[Picture] = field(default_factory=list)
    matches: Mapping[int, ImageMatches] = field(default_factory=dict)


def look(
    data: Images,
    detections: Detections,
    nms_threshold: float,
    threshold: float | None = None,
    count: int = COUNT,
) -> Seen:
    """Look at the detections on a dataset.

    Args:
        detections: of its images, with NMS done.
        nms_threshold: its IoU.
        threshold: None takes the score at which F over all images is largest.
        count: of the worst images that are drawn, and of the best.

    Raises:
        ImageError: an image can't be read.
    """
    truth = data.truth
    matches = match_images(truth, detections, min(LEAST, 1.0 if threshold is None else threshold))
    best_score = best_threshold(matches)
    threshold = best_score if threshold is None else threshold
    chosen = worst_and_best(matches, threshold, count)
    worst, best = (
        draw_images(images, data.records, detections, matches, threshold, data.metadata)
        for images in chosen
    )
    counts = np.bincount(truth.classes[~truth.crowds], minlength=len(truth.class_names))
    return Seen(
        threshold=threshold,
        is_best=threshold == best_score,
        images=len(truth.sizes),
        tally=joined(matches).tally(threshold),
        objects=dict(zip(truth.class_names, counts.tolist(), strict=True)),
        duplicates=count_duplicates(detections, len(truth.sizes), nms_threshold),
        worst=worst,
        best=best,
        matches=matches,
    )


def sizes(results: Results) -> list[tuple[str, list[float]]]:
    """AP and AP by size, a row a task."""
    return [
        (task, [values.get(metric, math.nan) for metric in METRICS])
        for task, values in results.items()
    ]


def classes(results: Results, seen: Seen) -> list[tuple[str, int | None, list[float]]]:
    """Name, objects and AP by task of each class, the best first."""
    tasks = [task for task in TASKS if task in results]
    if not tasks:
        return []
    names = [
        name.removeprefix(CLASS_PREFIX)
        for name in results[tasks[0]]
        if name.startswith(CLASS_PREFIX)
    ]
    rows = [
        (
            name,
            seen.objects.get(name),
            [results[task].get(CLASS_PREFIX + name, math.nan) for task in tasks],
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (math.isnan(row[2][0]), -row[2][0], row[0]))
