"""The detections that an evaluation has written, read back."""

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

from ..errors import DataError
from ..run_folder import PREDICTIONS
from .detections import Detections


def read_detections(
    folder: str | os.PathLike[str], class_of: Mapping[int, int], nms_threshold: float
) -> Detections:
    """Read what an evaluator wrote into its ``output_dir``, and do class-wise NMS of the boxes.

    Args:
        class_of: the number of a class by category id.
        nms_threshold: IoU above which the lower score of two boxes of a class goes.

    Returns:
        The detections, image by image in the order of the ids, and in an image from the best score
        on.

    Raises:
        DataError: the file isn't COCO's result format, or has other categories.
    """
    path = Path(folder, PREDICTIONS)
    columns = _Columns()
    try:
        with path.open(encoding="utf-8") as file:
            json.load(file, object_hook=columns.take)
        classes = [class_of[category] for category in columns.categories]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} doesn't hold the detections of this dataset: {type(error).__name__}: {error}"
        ) from error
    images, scores = np.array(columns.images, np.int64), np.array(columns.scores, np.float32)
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
    scores, classes = torch.from_numpy(found.scores[rows]), torch.from_numpy(found.classes[rows])
    found.survives[rows][batched_nms(corners, scores, classes, threshold).numpy()] = True


class _Columns:
    """Takes results one by one out of the parser, which then forgets them: dicts are large."""

    def __init__(self) -> None:
        self.images, self.categories = array("q"), array("q")
        self.scores, self.boxes = array("d"), array("d")
        self.masks: list[str] = []

    def take(self, result: dict[str, Any]) -> Any:
        """Keep what a result says; of its segmentation, which comes first, the run lengths."""
        if "counts" in result:
            return result["counts"]
        self.images.append(result["image_id"])
        self.categories.append(result["category_id"])
        self.scores.append(result["score"])
        self.boxes.extend(_four(result["bbox"]))
        if "segmentation" in result:
            self.masks.append(result["segmentation"])
        return None


def _four(box: Any) -> Iterator[float]:
    x, y, width, height = box
    yield from (x, y, width, height)
