"""Reading an annotation file: JSON of COCO's form, every entry with its keys and their kinds."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..errors import DataError
from ..run_folder import PREDICTIONS
from .coco_tables import REQUIRED_KEYS, Annotations, Categories, Images, Table
from .json_stream import Pairs, read_members
from .segmentation import compact

_READ_KEYS = {*REQUIRED_KEYS, *chain(*REQUIRED_KEYS.values()), "segmentation", "iscrowd", "area"}


@dataclass(frozen=True)
class CocoFile:
    """What a file holds: its lists, whose entries have the keys that are needed."""

    images: Images
    annotations: Annotations
    categories: Categories
    image_ids: np.ndarray
    annotation_ids: np.ndarray


def read_coco(json_file: str | os.PathLike, masks: bool) -> CocoFile:
    """Read a COCO-format file in UTF-8, UTF-16 or UTF-32, and check the form of its entries.

    It is never held in memory as a whole.

    Args:
        masks: keep the segmentations, polygons as arrays of float32. Without, they are forgotten as
            soon as they are parsed: together they would take a gigabyte for COCO.

    Returns:
        Its lists. The entries have the keys that are needed, of the right kinds; no id comes twice;
        images have a size.

    Raises:
        DataError: the file is not of this form; says where.
    """
    images, annotations = Images(json_file), Annotations(json_file, masks)
    categories = Categories(json_file)
    tables: dict[str, Table] = {
        "images": images, "annotations": annotations, "categories": categories
    }  # fmt: skip
    found = _fill(tables, json_file, masks)
    lacking = [key for key in REQUIRED_KEYS if not isinstance(found.get(key), list)]
    if lacking == ["annotations"] and "annotations" not in found:
        raise DataError(
            f"{json_file} lists images and no 'annotations', as COCO's test-dev files do: it can't "
            'be trained on or scored. For its detections alone, add "annotations": [] to a copy '
            f"of it and evaluate on that: AP is nan, and {PREDICTIONS} in the "
            "evaluator's output_dir holds what to submit."
        )
    if lacking:
        raise DataError(
            f"{json_file} is not in COCO's format: it lacks the list(s) {', '.join(lacking)}."
        )
    for kind in ("images", "categories"):
        if not found[kind]:
            raise DataError(f"{json_file}: the list '{kind}' is empty.")
    ids = {kind: table.check_ids() for kind, table in tables.items()}
    images.check_values()
    categories.check_values()
    annotations.check_values()
    return CocoFile(images, annotations, categories, ids["images"], ids["annotations"])


def _fill(tables: dict[str, Table], json_file: str | os.PathLike, masks: bool) -> dict[str, Any]:
    """Let tables take their lists. Returns the file's members, of those lists but a part."""
    repeated: list[str] = []

    def entry_of(pairs: Pairs) -> dict:
        entry = dict(pairs)
        if len(entry) != len(pairs):
            repeated.extend(_repeated(pairs))
        if masks:
            return compact(entry)
        entry.pop("segmentation", None)
        return entry

    members: Pairs = []
    with np.errstate(over="ignore"):
        for key, value, more in read_members(json_file, tables.keys(), entry_of):
            if not more:
                members.append((key, value))
            if key in tables and isinstance(value, list):
                tables[key].take(value)
    repeated.extend(_repeated(members))
    if repeated:
        raise DataError(f"{json_file}: {repeated[0]} twice, and only one of them can be meant.")
    return dict(members)


def _repeated(pairs: Pairs) -> list[str]:
    """Tell which keys that matter come twice in an entry, of which readers take the last."""
    counts = Counter(key for key, _ in pairs)
    whose = f"the entry of id {reprlib.repr(dict(pairs)['id'])}" if "id" in counts else "the file"
    twice = [key for key, count in counts.items() if count > 1 and key in _READ_KEYS]
    return [f"{whose} has the key '{key}'" for key in twice]
