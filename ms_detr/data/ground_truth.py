"""What detections are compared with: the objects of a dataset, as arrays."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .segmentation import to_runs

logger = logging.getLogger(__name__)

# What evaluation wants of an annotation, beside what training does.
EVALUATION_KEYS = ("id", "area", "ignore")
LARGEST_AREA = 1e5**2  # square pixels: COCO's metric passes over what is larger


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The N objects of a dataset.

    Attributes:
        sizes: (height, width) in pixels by image id.
        category_ids: of classes 0, 1, ...
        class_names: likewise, all different.
        images: (N,) int64, ids.
        classes: (N,) int64.
        boxes: (N, 4) float64 as (x, y, width, height) in pixels.
        areas: (N,) float64, square pixels: of the masks in COCO, above 0.
        crowds: (N,) bool.
        masks: N compressed run lengths of the image's size; None if they weren't loaded.
    """

    sizes: Mapping[int, tuple[int, int]]
    category_ids: Sequence[int]
    class_names: Sequence[str]
    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    masks: Sequence[bytes] | None

    def objects_of_a_class(self) -> np.ndarray:
        """Count the objects of each class in each image that shows any, crowds left out."""
        pairs = np.stack([self.images, self.classes])[:, ~self.crowds]
        return np.unique(pairs, axis=1, return_counts=True)[1]


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is remembered of a dataset that was loaded, beside what Detectron2's catalogs hold."""

    objects: np.ndarray  # how many each image has, crowds left out
    truth: GroundTruth | None


_kept: dict[str, _Kept] = {}


def keep(name: str, records: Sequence[Mapping[str, Any]], truth: GroundTruth | None) -> None:
    """Remember how many objects a dataset's images have, and which, where they are evaluated."""
    objects = [sum(not a["iscrowd"] for a in record["annotations"]) for record in records]
    _kept[name] = _Kept(np.array(objects, np.int64), truth)


def kept_truth(name: str, masks: bool = False) -> GroundTruth | None:
    """Return the objects of a dataset if they (and their masks) were kept when it was loaded."""
    truth = _kept[name].truth if name in _kept else None
    return None if truth is None or (masks and truth.masks is None) else truth


def objects_per_image(name: str) -> np.ndarray:
    """Return how many objects each image of a dataset has, crowds left out.

    Empty unless it was loaded with `ms_detr.data.coco_dataset`.
    """
    return _kept[name].objects if name in _kept else np.zeros(0, np.int64)


def ground_truth(
    records: Sequence[Mapping[str, Any]],
    classes: Mapping[int, str],
    json_file: str,
    masks: bool,
) -> GroundTruth:
    """Collect the objects of dataset dicts.

    An object's area decides among which sizes it counts, and whether it counts at all. The file's
    is taken if it can be right; else it is the mask's, without masks that of the box's part within
    the image. One warning says how many were computed, unless the file leaves all of them out.

    Args:
        records: of `ms_detr.data.coco_dataset`, with EVALUATION_KEYS as they are in the file;
            these are taken out.
        classes: names by category id, in the order of the classes.
        json_file: for the warning.
        masks: every annotation has a segmentation.
    """
    computed: list[tuple[Any, Any]] = []  # id and area of those whose area can't be right
    ignored = 0
    areas: list[float] = []
    runs: list[bytes] = []
    for record in records:
        height, width = record["height"], record["width"]
        for annotation in record["annotations"]:
            number, area, ignore = (annotation.pop(key) for key in EVALUATION_KEYS)
            ignored += bool(ignore) and not annotation["iscrowd"]
            mask = None
            if masks:
                mask = to_runs(annotation["segmentation"], int(height), int(width))
                runs.append(mask["counts"])
            if not _plausible(area, annotation["bbox"], mask):
                computed.append((number, area))
                area = _area(mask, annotation["bbox"], height, width)
            areas.append(float(area))
    _report(computed, ignored, len(areas), json_file, masks)
    pairs = [(record["image_id"], a) for record in records for a in record["annotations"]]
    return GroundTruth(
        {record["image_id"]: (int(record["height"]), int(record["width"])) for record in records},
        list(classes),
        list(classes.values()),
        np.array([image for image, _ in pairs], np.int64),
        np.array([a["category_id"] for _, a in pairs], np.int64),
        np.array([a["bbox"] for _, a in pairs], np.float64).reshape(-1, 4),
        np.array(areas, np.float64),
        np.array([a["iscrowd"] for _, a in pairs], bool),
        runs if masks else None,
    )


def _plausible(area: Any, box: Sequence[float], mask: dict | None) -> bool:
    """Tell whether a file's area can be right: a number above 0 that box and mask allow.

    Not more than the box holds, which may be rounded and may count its last pixel or not: a pixel
    more is allowed each way. Not below a pixel in a box of a hundred, as fractions of an image are.
    Within a factor of four of the mask's, unless both are of few pixels, where polygons differ.
    """
    if not isinstance(area, (int, float)) or isinstance(area, bool):
        return False
    least = 1 if box[2] * box[3] >= 100 else 0
    if not (area > 0 and least <= area <= min((box[2] + 1) * (box[3] + 1), LARGEST_AREA)):
        return False
    pixels = None if mask is None else float(coco_mask.area(mask))
    return not pixels or max(area, pixels) <= 64 or pixels / 4 <= area <= 4 * pixels


def _area(mask: dict | None, box: Sequence[float], height: float, width: float) -> float:
    """Return the mask's area or, without a mask or pixel, that of the box within its image."""
    if mask is not None and (area := coco_mask.area(mask)):
        return float(area)
    x, y, w, h = box
    return (min(x + w, width) - max(x, 0)) * (min(y + h, height) - max(y, 0))


def _report(
    computed: list[tuple[Any, Any]], ignored: int, count: int, json_file: str, masks: bool
) -> None:
    source = "mask" if masks else "box"
    if computed and len(computed) == count and all(area is None for _, area in computed):
        logger.info(
            "%s: no annotation has an 'area': it is the %s's, for AP by size", json_file, source
        )
    elif computed:
        number, area = computed[0]
        logger.warning(
            "%s: the 'area' of %d of %d annotations is missing, no number, not above 0, or nothing "
            "like box and mask; it was computed from the %s, for AP by size. The first is "
            "annotation %s with area %s.",
            json_file,
            len(computed),
            count,
            source,
            number,
            reprlib.repr(area),
        )
    if ignored:
        logger.warning(
            "%s: %d of %d annotations have 'ignore' set, which COCO's evaluation doesn't know: "
            "they count like any other. What neither training nor evaluation shall look at needs "
            "iscrowd=1.",
            json_file,
            ignored,
            count,
        )
