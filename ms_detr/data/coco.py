"""Datasets in COCO's format: checked, loaded and known to Detectron2's catalogs.

A dataset is a folder of images and one JSON file, or a name that Detectron2 knows. Everything
that can be wrong with the files is looked for before training starts, and reported with the
number of the offending entry. The records are Detectron2's standard dataset dicts.
"""

import difflib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from numbers import Real

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .segmentation import SegmentationCheck, compact

logger = logging.getLogger(__name__)

_REQUIRED_KEYS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": Real, "width": Real},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}

_KIND_OF_VALUE = {int: "whole number", str: "string", Real: "number", list: "list"}

_BUILTIN_HINT = (
    " Detectron2's datasets lie in the folder that the environment variable DETECTRON2_DATASETS "
    "names ('datasets' if unset; set it before Python starts). COCO belongs there as "
    "coco/train2017/*.jpg, coco/val2017/*.jpg and coco/annotations/instances_{train,val}2017.json."
)


def coco_dataset(
    name: str,
    images: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    masks: bool = False,
) -> list[dict]:
    """Load and check a COCO-format dataset and register it with Detectron2.

    Args:
        name: for the catalogs, e.g. of the evaluator. Alone, one of Detectron2's names such as
            "coco_2017_train", looked for under ``$DETECTRON2_DATASETS``.
        images: folder of the image files. Goes with ``annotations``.
        annotations: the COCO JSON file.
        masks: keep the segmentations, too: under 1 kB for a polygon of 33 points.

    Returns:
        One dict per image, by ascending image id: file_name, height, width, image_id,
        dataset_name, and annotations with bbox (x, y, width, height in pixels), bbox_mode,
        iscrowd and category_id, where 0 is the lowest category id of the file, 1 the next, and so
        on. Images without annotations are kept. Degenerate boxes (of no size, not finite, or
        outside the image) are dropped with a warning. With masks every annotation has a
        segmentation: polygons, a list of arrays (x1, y1, x2, y2, ...) whose vertices may lie off
        the image, or compressed RLE. ``MetadataCatalog.get(name)`` has thing_classes, json_file,
        image_root and thing_dataset_id_to_contiguous_id.

    Raises:
        FileNotFoundError: a folder or file is missing, image files included.
        ValueError: the JSON is not COCO's format or contradicts itself, the name is unknown, or
            belongs to other files; with masks, an annotation's segmentation is missing or wrong.
    """
    image_root, json_file = _locate(name, images, annotations)
    data = _read(json_file, masks)
    _check_entries(data, json_file)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    class_of = {category["id"]: i for i, category in enumerate(categories)}
    records = _records(data, name, image_root, json_file, class_of, masks)
    _check_image_files(records, image_root, json_file)
    _register(name, image_root, json_file, [c["name"] for c in categories], class_of)
    return records


def class_names(name: str) -> list[str]:
    """The class names of a dataset: of Detectron2, or loaded with :func:`coco_dataset` before."""
    names = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    if names is None:
        raise ValueError(f"The classes of dataset '{name}' are unknown: load the dataset first.")
    return list(names)


def check_classes(name: str, num_classes: int) -> None:
    """Raise ValueError unless the dataset has as many classes as the model."""
    found = len(class_names(name))
    if found != num_classes:
        raise ValueError(
            f"Dataset '{name}' has {found} classes, the model {num_classes}: "
            f"set model.num_classes={found}."
        )


def check_same_classes(name: str, other: str) -> None:
    """Raise ValueError, with the first difference, unless two datasets have the same classes."""
    pairs = zip_longest(class_names(name), class_names(other))
    for number, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            raise ValueError(
                f"Class {number} is {ours!r} in dataset '{name}' and {theirs!r} in '{other}': both "
                "annotation files need the same categories, in the same order of their ids."
            )


def is_crowd(annotation: Mapping, json_file: str) -> bool:
    """Whether an annotation marks a crowd. Files tell it in many ways, or not at all."""
    value = annotation.get("iscrowd")
    if value in (None, 0, "0", ""):
        return False
    if value in (1, "1"):
        return True
    raise ValueError(
        f"{json_file}: annotation {annotation.get('id')} has iscrowd = {_short(repr(value))}, "
        "not 0 or 1."
    )


def is_degenerate(bbox: Sequence[float], width: float, height: float) -> bool:
    """Whether a box (x, y, width, height) is not finite, or has no size inside its image."""
    x, y, w, h = bbox
    if not all(map(math.isfinite, bbox)):
        return True
    return min(w, h) <= 0 or x + w <= 0 or y + h <= 0 or x >= width or y >= height


# ------------------------------------------------------------------------- finding the files


def _locate(
    name: str, images: str | os.PathLike | None, annotations: str | os.PathLike | None
) -> tuple[str, str]:
    """The image folder and the annotation file of a dataset; both exist."""
    if not name:
        raise ValueError(
            f"dataset.name is {name!r}: give one of Detectron2's names, or any name beside the "
            "'images' and 'annotations' of your own data."
        )
    if (images is None) != (annotations is None):
        missing = "images" if images is None else "annotations"
        raise ValueError(
            f"Dataset '{name}': 'images' and 'annotations' go together, '{missing}' is missing."
        )
    if images is None or annotations is None:
        image_root, json_file = _known_paths(name)
        hint = _BUILTIN_HINT if name.startswith("coco_") else ""
    else:
        image_root, json_file = os.path.expanduser(images), os.path.expanduser(annotations)
        hint = ""
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"Dataset '{name}': there is no annotation file {os.path.abspath(json_file)}.{hint}"
        )
    if not os.path.isdir(image_root):
        raise FileNotFoundError(
            f"Dataset '{name}': there is no image folder {os.path.abspath(image_root)}.{hint}"
        )
    return image_root, json_file


def _known_paths(name: str) -> tuple[str, str]:
    """Image folder and annotation file of a name that is in the catalogs."""
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    if metadata is None or metadata.get("evaluator_type") != "coco":
        known = [
            n for n in DatasetCatalog if MetadataCatalog.get(n).get("evaluator_type") == "coco"
        ]
        nearest = difflib.get_close_matches(name, known, n=3) or ["coco_2017_train"]
        raise ValueError(
            f"Dataset '{name}' is not a COCO-format dataset that Detectron2 knows. For your own "
            "data give 'images' (folder) and 'annotations' (JSON file) beside the name; "
            f"the nearest known names are {', '.join(nearest)}."
        )
    return os.fspath(metadata.image_root), os.fspath(metadata.json_file)


def _register(
    name: str, image_root: str, json_file: str, classes: list[str], class_of: dict[int, int]
) -> None:
    """Make the name known to Detectron2; a second time with the same files changes nothing."""
    facts = {
        "image_root": image_root,
        "json_file": json_file,
        "thing_classes": classes,
        "thing_dataset_id_to_contiguous_id": class_of,
        "evaluator_type": "coco",
    }
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: coco_dataset(name, image_root, json_file))
    metadata = MetadataCatalog.get(name)
    for key, value in facts.items():
        known = metadata.get(key)
        if known is None:
            metadata.set(**{key: value})
        elif str(known) != str(value):  # as strings: paths come as str and as Path
            raise ValueError(
                f"Dataset name '{name}' is taken: it stands for {key} = {_short(known)}, and here "
                f"for {_short(value)}. Choose another name."
            )


def _short(value: object, length: int = 120) -> str:
    text = str(value)
    return text if len(text) <= length else text[:length] + "..."


# ------------------------------------------------------------------------ checking the content


def _read(json_file: str, masks: bool) -> dict[str, list]:
    """The content of an annotation file, with all its lists; segmentations if masks are wanted."""
    try:
        with open(json_file, encoding="utf-8") as file:
            data = json.load(file, object_hook=compact if masks else _without_segmentation)
    except ValueError as error:  # of the decoder of JSON, and of the one of UTF-8
        raise ValueError(f"{json_file} is not a JSON file: {error}") from error
    found = data if isinstance(data, dict) else {}
    lacking = [key for key in _REQUIRED_KEYS if not isinstance(found.get(key), list)]
    if lacking:
        raise ValueError(
            f"{json_file} is not in COCO's format: it lacks the list(s) {', '.join(lacking)}."
        )
    return found


def _without_segmentation(entry: dict) -> dict:
    """Forget a polygon as soon as it is parsed: together they would take a gigabyte for COCO."""
    entry.pop("segmentation", None)
    return entry


def _check_entries(data: dict[str, list], json_file: str) -> None:
    """Check that every entry has its keys, and that no id comes twice."""
    for kind in ("images", "categories"):
        if not data[kind]:
            raise ValueError(f"{json_file}: the list '{kind}' is empty.")
    for kind, keys in _REQUIRED_KEYS.items():
        seen = set()
        for number, entry in enumerate(data[kind]):
            for key, wanted in keys.items():
                if not isinstance(entry, dict) or key not in entry:
                    raise ValueError(f"{json_file}: {kind}[{number}] lacks '{key}'.")
                if not isinstance(entry[key], wanted):
                    raise ValueError(
                        f"{json_file}: {kind}[{number}] has {key} = {_short(repr(entry[key]))}, "
                        f"not a {_KIND_OF_VALUE[wanted]}."
                    )
            if entry["id"] in seen:
                raise ValueError(
                    f"{json_file}: the id {entry['id']} comes twice in '{kind}' "
                    f"(again at {kind}[{number}])."
                )
            seen.add(entry["id"])
        if kind == "annotations" and 0 in seen:
            logger.warning(
                "%s: an annotation has the id 0. COCO's evaluation takes every detection of that "
                "object for wrong; number the annotations from 1.",
                json_file,
            )


def _records(
    data: dict[str, list],
    name: str,
    image_root: str,
    json_file: str,
    class_of: dict[int, int],
    masks: bool,
) -> list[dict]:
    """Detectron2's dataset dicts, by ascending image id."""
    records = {
        image["id"]: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "dataset_name": name,
            "annotations": [],
        }
        for image in sorted(data["images"], key=lambda image: image["id"])
    }
    degenerate = []
    segmentation_of = SegmentationCheck(json_file)
    for annotation in data["annotations"]:
        where = f"{json_file}: annotation {annotation['id']}"
        record = records.get(annotation["image_id"])
        if record is None:
            raise ValueError(
                f"{where} belongs to image {annotation['image_id']}, which is not in 'images'."
            )
        if annotation["category_id"] not in class_of:
            raise ValueError(
                f"{where} has category_id {annotation['category_id']}, which is not in "
                f"'categories' (ids {_short(sorted(class_of))})."
            )
        if not _is_box(annotation["bbox"]):
            raise ValueError(
                f"{where} has bbox {_short(annotation['bbox'])}, which is not four numbers "
                "[x, y, width, height]."
            )
        if is_degenerate(annotation["bbox"], record["width"], record["height"]):
            degenerate.append(annotation)
            continue
        item = {
            "iscrowd": int(is_crowd(annotation, json_file)),
            # Floats, for Detectron2's transforms cut the boxes of whole numbers to whole numbers.
            "bbox": [float(value) for value in annotation["bbox"]],
            "category_id": class_of[annotation["category_id"]],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        if masks:
            size = record["height"], record["width"]
            item["segmentation"] = segmentation_of(annotation, *size)
        record["annotations"].append(item)
    segmentation_of.report()
    if degenerate:
        first = degenerate[0]
        logger.warning(
            "%s: dropped %d of %d annotations, whose boxes have no size, are not finite or lie "
            "outside the image; the first is annotation %s with bbox %s.",
            json_file,
            len(degenerate),
            len(data["annotations"]),
            first["id"],
            first["bbox"],
        )
    return list(records.values())


def _is_box(bbox: object) -> bool:
    return (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in bbox)
    )


def _check_image_files(records: list[dict], image_root: str, json_file: str) -> None:
    """Check that every image file is there. Lists each folder once: one stat a file is slow."""
    listed: dict[str, set[str]] = {}
    missing = []
    for record in records:
        folder, file = os.path.split(record["file_name"])
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if file not in listed[folder]:
            missing.append(os.path.relpath(record["file_name"], image_root))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} image file(s) of {json_file} are not in {image_root}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
