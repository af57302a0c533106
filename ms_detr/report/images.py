"""The images on which a model does worst and best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from ..evaluation.detections import Detections
from ..evaluation.reading import by_image
from ..visualization import pair
from .inline import data_uri, webp
from .matching import ImageMatches, Tally

COUNT = 4  # images of each kind
WIDEST = 960  # pixels of a picture


@dataclass(frozen=True)
class Picture:
    """An image's annotations beside its detections.

    Attributes:
        name: of its file.
        content: WebP.
    """

    image_id: int
    name: str
    tally: Tally
    content: bytes
    width: int
    height: int

    @property
    def source(self) -> str:
        """A data URI."""
        return data_uri(self.content, "webp")


def worst_and_best(
    matches: Mapping[int, ImageMatches], threshold: float, count: int = COUNT
) -> tuple[list[int], list[int]]:
    """Choose images by their F at a score threshold; no image is in both lists.

    Of several with the same F those come first that have the most mistakes, or the most objects
    found. Images where there is nothing, and nothing was seen, are left out.
    """
    tallies = {image: each.tally(threshold) for image, each in matches.items()}
    shown = [k for k, t in tallies.items() if t.found + t.missed + t.wrong]
    worst = sorted(shown, key=lambda k: (tallies[k].f, -tallies[k].missed - tallies[k].wrong, k))
    best = sorted(shown, key=lambda k: (-tallies[k].f, -tallies[k].found, k))
    count = min(count, (len(shown) + 1) // 2)
    return worst[:count], best[: min(count, len(shown) - count)]


def draw_images(
    images: Sequence[int],
    records: Mapping[int, dict[str, Any]],
    detections: Detections,
    matches: Mapping[int, ImageMatches],
    threshold: float,
    metadata: Metadata,
) -> list[Picture]:
    """Draw images, by their ids.

    Raises:
        ImageError: an image file can't be read.
    """
    rows = by_image(detections.images)
    pictures = []
    for image in images:
        record = records[image]
        seen = rows.get(image, slice(0, 0))
        likely = int((detections.scores[seen] >= threshold).sum())  # the first ones
        shown = slice(seen.start, seen.start + likely)
        instances = _instances(detections, shown, record)
        picture = pair(record, instances, threshold, metadata)
        picture.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
        name = str(record["file_name"]).replace("\\", "/").rpartition("/")[2]
        tally = matches[image].tally(threshold)
        pictures.append(Picture(image, name, tally, webp(picture), *picture.size))
    return pictures


def _instances(detections: Detections, rows: slice, record: Mapping[str, Any]) -> Instances:
    """Detections as a model hands them out."""
    size = int(record["height"]), int(record["width"])
    boxes = torch.from_numpy(detections.boxes[rows])
    found = Instances(
        size,
        pred_boxes=Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
        scores=torch.from_numpy(detections.scores[rows]),
        pred_classes=torch.from_numpy(detections.classes[rows]),
    )
    if detections.masks is not None:
        runs = [{"size": list(size), "counts": counts} for counts in detections.masks[rows]]
        bitmaps = [coco_mask.decode(run) for run in runs]
        stacked = np.array(bitmaps, np.uint8).reshape(-1, *size)
        found.pred_masks = torch.from_numpy(stacked).bool()
    return found
