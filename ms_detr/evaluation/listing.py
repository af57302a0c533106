"""Objects found in images that belong to no dataset, as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from detectron2.structures import Instances

from .detections import ImageDetections

COLUMNS = ("file", "frame", "class", "name", "score", "x", "y", "width", "height")


@dataclass(frozen=True, eq=False)
class Listed:
    """What is found in one image.

    Attributes:
        file: the image's, or the video's.
        frame: the number of the video's frame, from 0; None for an image.
        objects: their image_id is a number of its own.
    """

    file: str
    frame: int | None
    objects: ImageDetections

    @classmethod
    def of(cls, image_id: int, file: str, frame: int | None, found: Instances) -> Listed:
        """Take a predictor's objects of an image."""
        return cls(file, frame, ImageDetections.of(image_id, found, None, found.has("pred_masks")))

    def results(self, class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield COCO's results, which tell file, frame and the name of the class besides.

        ``category_id`` is the number of the class in the model, as in ``pred_classes``.
        """
        origin = {"file_name": self.file}
        frame = {} if self.frame is None else {"frame": self.frame}
        for result in self.objects.in_coco_format(range(1 + max(self.objects.classes, default=0))):
            name = class_names[result["category_id"]] if class_names else None
            numbers = {
                "bbox": [_shortest(x) for x in result["bbox"]],
                "score": _shortest(result["score"]),
            }
            yield {**result, **numbers, "category_name": name, **origin, **frame}


def _shortest(value: float) -> float:
    """Return the number of fewest digits that stands for the same single-precision one."""
    return float(str(np.float32(value)))


def write_json(file: TextIO, images: Sequence[Listed], class_names: Sequence[str]) -> None:
    """Write COCO's result format, a list; image by image, for the text may be long."""
    file.write("[")
    separator = ""
    for image in images:
        if results := list(image.results(class_names)):
            file.write(separator + json.dumps(results)[1:-1])
            separator = ",\n"
    file.write("]\n")


def write_csv(file: TextIO, images: Sequence[Listed], class_names: Sequence[str]) -> None:
    """Write a table with a row an object, boxes in pixels, and a line of `COLUMNS` above."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for image in images:
        for result in image.results(class_names):
            origin = result["file_name"], result.get("frame"), result["category_id"]
            table.writerow((*origin, result["category_name"], result["score"], *result["bbox"]))
