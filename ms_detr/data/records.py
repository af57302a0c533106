"""Detectron2's dataset dicts from the entries of an annotation file, every one of them checked."""

import logging
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..errors import DataError, listed, shortened
from .box_plausibility import box_findings
from .coco_json import boxes_of
from .ground_truth import EVALUATION_KEYS
from .mask_plausibility import mask_findings
from .plausibility import report
from .segmentation import Segmentation, parse

logger = logging.getLogger(__name__)


def make_records(
    data: Mapping[str, list],
    name: str,
    image_root: str,
    json_file: str,
    class_of: Mapping[int, int],
    *,
    masks: bool,
    trusted: bool,
    evaluated: bool,
) -> list[dict]:
    """Make the dataset dicts of `ms_detr.data.coco_dataset`, by ascending image id.

    Args:
        data: of `ms_detr.data.coco_json.read_coco`.
        class_of: the number of a class by category id.
        masks: keep the segmentations.
        trusted: only warn where most annotations look wrong.
        evaluated: keep what `ms_detr.data.ground_truth` reads of annotations, too.

    Raises:
        DataError: an annotation is wrong in itself, or most of them look wrong.
    """
    images = sorted(data["images"], key=lambda image: image["id"])
    records: list[dict] = [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "dataset_name": name,
            "annotations": [],
        }
        for image in images
    ]
    annotations = data["annotations"]
    boxes = boxes_of(annotations, json_file)
    number_of = {image["id"]: number for number, image in enumerate(images)}
    image_of = np.array(_numbers_of(annotations, "image", number_of, json_file), np.int64)
    classes = _numbers_of(annotations, "category", class_of, json_file)
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)[image_of]
    degenerate = _are_degenerate(boxes, sizes)
    # Floats, for Detectron2's transforms cut the boxes of whole numbers to whole numbers.
    floats, kept, items = boxes.tolist(), np.flatnonzero(~degenerate), []
    for row in kept.tolist():
        annotation = annotations[row]
        item: dict[str, Any] = {
            "iscrowd": int(is_crowd(annotation, json_file)),
            "bbox": floats[row],
            "category_id": classes[row],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        if evaluated:
            item |= {key: annotation.get(key) for key in EVALUATION_KEYS}
        records[image_of[row]]["annotations"].append(item)
        items.append(item)
    segmentations: list[Segmentation] = []
    if masks:
        segmentations = segmentations_of([annotations[row] for row in kept], sizes[kept], json_file)
        for item, segmentation in zip(items, segmentations, strict=True):
            item["segmentation"] = segmentation

    def describe(row: int) -> str:
        width, height = sizes[row]
        box = reprlib.repr(annotations[row]["bbox"])
        return f"annotation {annotations[row]['id']}: {box} in an image of {width:g} x {height:g}"

    report(box_findings(boxes, sizes, image_of), len(boxes), describe, json_file, trusted)
    if masks:
        found = mask_findings(segmentations, boxes[kept], sizes[kept])
        report(found, len(kept), lambda row: describe(kept[row]), json_file, trusted)
    dropped = [annotations[row] for row in np.flatnonzero(degenerate)]
    _report_dropped(dropped, len(annotations), json_file, trusted)
    return records


def is_crowd(annotation: Mapping, json_file: str) -> bool:
    """Tell whether an annotation marks a crowd, which files write in many ways, or not at all."""
    value = annotation.get("iscrowd")
    if value in (None, 0, "0", ""):
        return False
    if value in (1, "1"):
        return True
    raise DataError(
        f"{json_file}: annotation {annotation.get('id')} has iscrowd = "
        f"{reprlib.repr(value)}, not 0 or 1."
    )


def _are_degenerate(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tell which boxes (n, 4) are not finite, or have no size inside their images.

    Args:
        sizes: (n, 2) width and height of the image of each.
    """
    start, extent = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):
        outside = (extent <= 0) | (start + extent <= 0) | (start >= sizes)
    return ~np.isfinite(boxes).all(1) | outside.any(1)


def _numbers_of(
    annotations: Sequence[Mapping], kind: str, number_of: Mapping[int, int], json_file: str
) -> list[int]:
    """Return the numbers of what annotations name by id, which is of a kind such as "image"."""
    for annotation in annotations:
        if (number := annotation[f"{kind}_id"]) not in number_of:
            raise DataError(
                f"{json_file}: annotation {annotation['id']} has {kind}_id {number}, which no "
                f"{kind} of the file has (ids {shortened(sorted(number_of))})."
            )
    return [number_of[annotation[f"{kind}_id"]] for annotation in annotations]


def segmentations_of(
    annotations: Sequence[Mapping], sizes: np.ndarray, json_file: str
) -> list[Segmentation]:
    """Check the segmentations of annotations; one error tells of all that are wrong."""
    found, problems, remnants = [], [], []
    for annotation, (width, height) in zip(annotations, sizes.astype(int).tolist(), strict=True):
        value = annotation.get("segmentation")
        try:
            found.append(parse(value, height, width))
        except DataError as problem:
            problems.append(f"annotation {annotation['id']} {problem}")
            continue
        if isinstance(value, list) and len(found[-1]) < len(value):
            remnants.append(annotation["id"])
    if problems:
        raise DataError(
            f"{json_file}: {len(problems)} of {len(annotations)} annotations can't be used with "
            f"masks: {listed(problems, 3, '; ')}. Mend or remove them, or "
            "train without masks: with a config that has none, and dataloader.masks=false."
        )
    if remnants:
        logger.warning(
            "%s: left out polygons of one or two points of %d annotations; the first is "
            "annotation %s.",
            json_file,
            len(remnants),
            remnants[0],
        )
    return found


def _report_dropped(dropped: list[dict], total: int, json_file: str, trusted: bool) -> None:
    """Warn of annotations that can't be used, or raise DataError if most can't."""
    if not dropped:
        return
    first = dropped[0]
    what = (
        f"{len(dropped)} of {total} annotations, whose boxes have no size, are not finite or lie "
        f"outside the image; the first is annotation {first['id']} with bbox {first['bbox']}."
    )
    if 2 * len(dropped) > total and not trusted:
        raise DataError(
            f"{json_file} has {what} Correct them, or set trust_annotations=true beside its name "
            "in the config to go on without them."
        )
    logger.warning("%s: dropped %s", json_file, what)
