"""Detections in COCO's result format: what an evaluation has written, and others' files."""

from __future__ import annotations

import itertools
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from torchvision.ops import batched_nms

from ..data import GroundTruth
from ..data.segmentation import parse
from ..errors import DataError, MissingFileError, listed
from ..run_folder import PREDICTIONS
from .detections import Detections

KEYS = ("image_id", "category_id", "bbox", "score")
HUGE = 1e30  # neither NaN nor infinite, and not in float32 either


def read_detections(
    place: str | os.PathLike[str], class_of: Mapping[int, int], nms_threshold: float
) -> Detections:
    """Read a file of COCO's result format, and do class-wise NMS of the boxes.

    Args:
        place: the file, or the ``output_dir`` of an evaluator, which wrote it.
        class_of: the number of a class by category id.
        nms_threshold: IoU above which the lower score of two boxes of a class goes.

    Returns:
        The detections, image by image in the order of the ids, and in an image from the best score
        on.

    Raises:
        MissingFileError: there is no such file.
        DataError: it isn't COCO's result format, or has other categories.
    """
    path = Path(place, PREDICTIONS) if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise MissingFileError(f"there is no file {path} of detections")
    columns = _Columns()
    try:
        with path.open(encoding="utf-8") as file:
            columns.expect_all(json.load(file, object_hook=columns.take))
        if strange := sorted({*columns.categories} - class_of.keys()):
            raise ValueError(f"it has categories {listed(strange, 8)}, which the dataset has not")
        classes = [class_of[category] for category in columns.categories]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} doesn't hold the detections of this dataset: {error}") from error
    images, scores = np.array(columns.images, np.int64), np.array(columns.scores, np.float64)
    order = np.lexsort((-scores, images))
    boxes = np.array(columns.boxes, np.float64).reshape(-1, 4)[order]
    numbers = np.array(classes, np.int64)[order]
    masks = [columns.masks[k].encode() for k in order] if columns.masks else None
    found = Detections(
        images[order], boxes, scores[order], numbers, np.zeros(len(order), bool), masks
    )
    for rows in by_image(found.images).values():
        _suppress(found, rows, nms_threshold)
    return found


def check_detections(found: Detections, truth: GroundTruth, place: str | os.PathLike[str]) -> None:
    """Raise DataError where detections are of images, or masks of sizes, that a dataset hasn't."""
    strange = [image for image in np.unique(found.images).tolist() if image not in truth.sizes]
    if strange:
        raise DataError(
            f"{place} has detections on {len(strange)} images that the dataset doesn't have (ids "
            f"{listed(strange, 8)}): it belongs to another dataset"
        )
    if found.masks is not None:
        for image, counts in zip(found.images.tolist(), found.masks, strict=True):
            size = truth.sizes[image]
            try:
                parse({"size": list(size), "counts": counts}, *size)
            except DataError as error:
                raise DataError(f"{place}: a mask on image {image} {error}") from error


def by_image(images: np.ndarray) -> dict[int, slice]:
    """Return the rows of each image id, of sorted ids."""
    ids, starts = np.unique(images, return_index=True)
    edges = itertools.pairwise([*starts.tolist(), len(images)])
    return {image: slice(*edge) for image, edge in zip(ids.tolist(), edges, strict=True)}


def _suppress(found: Detections, rows: slice, threshold: float) -> None:
    """Note in place which detections of an image survive."""
    assert found.survives is not None
    corners = BoxMode.convert(
        torch.from_numpy(found.boxes[rows]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
    ).float()
    order = torch.arange(len(corners), 0, -1).float()  # in the place of scores, all different
    classes = torch.from_numpy(found.classes[rows])
    found.survives[rows][batched_nms(corners, order, classes, threshold).numpy()] = True


class _Columns:
    """Takes results one by one out of the parser, which then forgets them: dicts are large."""

    def __init__(self) -> None:
        self.images, self.categories = array("q"), array("q")
        self.scores, self.boxes = array("d"), array("d")
        self.masks: list[str] = []

    def take(self, result: dict[str, Any]) -> Any:
        """Keep what a result says; of its segmentation, which comes first, the run lengths.

        Raises:
            ValueError, TypeError: it is none, or its numbers can't be right.
        """
        if "counts" in result:
            return result["counts"]
        number = len(self.images)
        if "category_name" in result:
            raise ValueError(
                "it was written by `ms-detr predict`, which numbers images and classes its own way"
            )
        if missing := [key for key in KEYS if key not in result]:
            raise ValueError(f"result {number} has no {' and no '.join(missing)}")
        box = [*_four(result["bbox"])]
        score = result["score"]
        for value in (*box, score):
            if not isinstance(value, (int, float)) or not abs(value) < HUGE:
                raise ValueError(f"result {number}: {value!r} is no finite number")
        if min(box[2:]) < 0:
            raise ValueError(f"result {number}: its box {box} has a negative size")
        self.images.append(result["image_id"])
        self.categories.append(result["category_id"])
        self.scores.append(score)
        self.boxes.extend(box)
        if "segmentation" in result:
            runs = result["segmentation"]
            if not isinstance(runs, str):
                raise TypeError(f"result {number}: its segmentation is no compressed RLE")
            self.masks.append(runs)
        if self.masks and len(self.masks) < len(self.images):
            raise ValueError(f"up to result {number} some have a segmentation, and some have none")
        return None

    def expect_all(self, content: Any) -> None:
        """Raise TypeError unless the file's content was a list of the results that were taken."""
        if not isinstance(content, list) or any(item is not None for item in content):
            raise TypeError("it must be a list of results")
        if len(content) != len(self.images):
            raise TypeError("a result holds another one")


def _four(box: Any) -> Iterator[float]:
    x, y, width, height = box
    yield from (x, y, width, height)
