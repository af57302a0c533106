"""COCO JSON as ms_detr's other commands take it: ``annotations/SPLIT.json`` and ``SPLIT/``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from ...files import write_text
from ..segmentation import parse, to_runs
from .dataset import SPLITS, Dataset, Object, Picture
from .problems import Problems


def write(dataset: Dataset, folder: Path, problems: Problems) -> None:
    """Write an annotation file for each split that has images.

    Ids of images and annotations are kept where no two of a split are alike.
    """
    for split in SPLITS:
        pictures = [picture for picture in dataset.pictures if picture.split == split]
        if pictures:
            text = json.dumps(_file(dataset.classes, pictures), allow_nan=False)
            write_text(folder / "annotations" / f"{split}.json", text)


def _file(classes: Mapping[str, int], pictures: Sequence[Picture]) -> dict[str, Any]:
    image_ids = _ids([picture.id for picture in pictures])
    objects = [
        (image_id, picture, item)
        for image_id, picture in zip(image_ids, pictures, strict=True)
        for item in picture.objects
    ]
    ids = _ids([item.id for _, _, item in objects])
    return {
        "images": [
            {"id": number, "file_name": p.name, "width": p.width, "height": p.height}
            for number, p in zip(image_ids, pictures, strict=True)
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": classes[item.category]}
            | _annotation(item, picture)
            for number, (image_id, picture, item) in zip(ids, objects, strict=True)
        ],
        "categories": [
            {"id": number, "name": name}
            for name, number in sorted(classes.items(), key=lambda pair: pair[1])
        ],
    }


def _ids(known: Sequence[int | None]) -> list[int]:
    """Return ids as they are if all have one of their own, or else 1, 2, 3, ..."""
    kept = [number for number in known if number is not None]
    return kept if len(set(kept)) == len(known) else [*range(1, len(known) + 1)]


def _annotation(item: Object, picture: Picture) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bbox": [round(number, 4) for number in item.box],
        "area": item.box[2] * item.box[3] if item.area is None else item.area,
        "iscrowd": int(item.crowd),
        **item.flags,
    }
    if item.segmentation is not None:
        found["segmentation"] = item.segmentation
        if item.area is None:
            size = picture.height, picture.width
            found["area"] = int(coco_mask.area(to_runs(parse(item.segmentation, *size[:2]), *size)))
    return found
