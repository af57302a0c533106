"""Datasets in COCO's format: checked, loaded and known to Detectron2's catalogs.

A dataset is a folder of images and one JSON file, or a name that Detectron2 knows. Everything
that can be wrong with the files is looked for before training starts, and reported with the
number of the offending entry. The records are Detectron2's standard dataset dicts.
"""

import difflib
import logging
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial as partial_call

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ..errors import ConfigError, DataError, MissingFileError, shortened
from .box_plausibility import box_findings
from .categories import distinct_names
from .class_order import completed, in_order_of
from .coco_json import boxes_of, read_coco
from .fingerprint import remember
from .ground_truth import EVALUATION_KEYS, GroundTruth, ground_truth, keep
from .image_check import check_files
from .mask_plausibility import mask_findings
from .plausibility import report
from .segmentation import Segmentation, SegmentationCheck

logger = logging.getLogger(__name__)

_registered: set[str] = set()  # names in Detectron2's catalog that are ours

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
    trust_annotations: bool = False,
    check_images: bool = True,
    classes: Sequence[str] | None = None,
    partial: bool = False,
    evaluated: bool = False,
) -> list[dict]:
    """Load and check a COCO-format dataset and register it with Detectron2.

    Args:
        name: for the catalogs, e.g. of the evaluator. Alone, one of Detectron2's names such as
            "coco_2017_train", looked for under ``$DETECTRON2_DATASETS``.
        images: folder of the image files. Goes with ``annotations``.
        annotations: the COCO JSON file.
        masks: keep the segmentations, too: under 1 kB for a polygon of 33 points.
        trust_annotations: only warn where most annotations look wrong, see
            `ms_detr.data.plausibility`.
        check_images: look into every image file, see `ms_detr.data.image_check`; that it is
            there is checked in any case.
        classes: the names of the categories in the order that weights have them in, which is then
            that of ``category_id`` and thing_classes; None or empty takes the order of the ids.
        partial: the file may list a part of ``classes`` only: the others have no objects in it.
        evaluated: keep the objects for `kept_truth` as well, in the main process, so that
            evaluation needn't read the file again.

    Returns:
        One dict per image, by ascending image id: file_name, height, width, image_id,
        dataset_name, and annotations with bbox (x, y, width, height in pixels), bbox_mode,
        iscrowd and category_id, where 0 is the lowest category id of the file, 1 the next, and so
        on. Images without annotations are kept. Degenerate boxes (of no size, not finite, or
        outside the image) are dropped with a warning. With masks every annotation has a
        segmentation: polygons, a list of arrays (x1, y1, x2, y2, ...) whose vertices may lie off
        the image, or compressed RLE. ``MetadataCatalog.get(name)`` has thing_classes, json_file,
        image_root and thing_dataset_id_to_contiguous_id. Classes of one name get their category's
        id added, with a warning.

    Raises:
        MissingFileError: a folder or file is missing, image files included.
        ImageError: image files can't be used; see `ms_detr.data.image_check`.
        ConfigError: the name is unknown, or belongs to other files.
        DataError: the JSON is not COCO's format or contradicts itself; most boxes or masks can't be
            right; with masks, an annotation's segmentation is missing or wrong.
        OtherClassesError: the categories have other names than ``classes``.
    """
    image_root, json_file = _locate(name, images, annotations)
    evaluated = evaluated and comm.is_main_process()
    data = read_coco(json_file, masks)
    name_of = distinct_names(data["categories"], json_file)
    if classes:
        if partial:
            name_of = completed(name_of, classes, json_file)
        name_of, moved = in_order_of(name_of, classes, name)
        if moved:
            logger.info(
                "dataset '%s': its classes are in the order of the weights, not of its ids", name
            )
    class_of = {category: i for i, category in enumerate(name_of)}
    records = _records(
        data, name, image_root, json_file, class_of, masks, trust_annotations, evaluated
    )
    truth = ground_truth(records, name_of, json_file, masks) if evaluated else None
    check_files(records, image_root, json_file, look_inside=check_images)
    # Not a collective any more; nothing that was found is looked for again.
    again = partial_call(
        coco_dataset, name, image_root, json_file, masks, trust_annotations=True,
        check_images=False, classes=classes, partial=partial, evaluated=evaluated,
    )  # fmt: skip
    _register(name, image_root, json_file, list(name_of.values()), class_of, again)
    remember(name, records)
    keep(name, records, truth)
    return records


def read_truth(name: str, masks: bool = False) -> GroundTruth:
    """The objects of a dataset from the annotation file that Detectron2 knows of that name.

    Raises:
        DataError: there is no such file, or something is wrong with it.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") is None:
        raise DataError(
            f"dataset '{name}' has no COCO annotation file: load it with "
            "ms_detr.data.coco_dataset first"
        )
    json_file = os.fspath(metadata.json_file)
    data = read_coco(json_file, masks)
    name_of = distinct_names(data["categories"], json_file)
    class_of = metadata.get("thing_dataset_id_to_contiguous_id")
    if class_of is None:
        class_of = {category: i for i, category in enumerate(name_of)}
    elif not name_of.keys() <= class_of.keys():
        raise DataError(
            f"{json_file} has categories {shortened(sorted(name_of))}, but dataset '{name}' was "
            f"loaded with {shortened(sorted(class_of))}: was the file changed?"
        )
    records = _records(data, name, "", json_file, class_of, masks, trusted=True, evaluated=True)
    names = metadata.get("thing_classes") or list(name_of.values())
    in_order = {
        category: names[class_of[category]] for category in sorted(class_of, key=class_of.get)
    }
    return ground_truth(records, in_order, json_file, masks)


def is_crowd(annotation: Mapping, json_file: str) -> bool:
    """Whether an annotation marks a crowd. Files tell it in many ways, or not at all."""
    value = annotation.get("iscrowd")
    if value in (None, 0, "0", ""):
        return False
    if value in (1, "1"):
        return True
    raise DataError(
        f"{json_file}: annotation {annotation.get('id')} has iscrowd = "
        f"{reprlib.repr(value)}, not 0 or 1."
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
        raise ConfigError(
            f"dataset.name is {name!r}: give one of Detectron2's names, or any name beside the "
            "'images' and 'annotations' of your own data."
        )
    if (images is None) != (annotations is None):
        missing = "images" if images is None else "annotations"
        raise ConfigError(
            f"Dataset '{name}': 'images' and 'annotations' go together, '{missing}' is missing."
        )
    if images is None or annotations is None:
        image_root, json_file = _known_paths(name)
        hint = _BUILTIN_HINT if name.startswith("coco_") else ""
    else:
        image_root, json_file = os.path.expanduser(images), os.path.expanduser(annotations)
        hint = ""
    if not os.path.isfile(json_file):
        raise MissingFileError(
            f"Dataset '{name}': there is no annotation file {os.path.abspath(json_file)}.{hint}"
        )
    if not os.path.isdir(image_root):
        raise MissingFileError(
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
        raise ConfigError(
            f"Dataset '{name}' is not a COCO-format dataset that Detectron2 knows. For your own "
            "data give 'images' (folder) and 'annotations' (JSON file) beside the name; "
            f"the nearest known names are {', '.join(nearest)}."
        )
    return os.fspath(metadata.image_root), os.fspath(metadata.json_file)


def _register(
    name: str,
    image_root: str,
    json_file: str,
    classes: list[str],
    class_of: dict[int, int],
    load: Callable[[], list[dict]],
) -> None:
    """Make the name known to Detectron2; of the same files only the order of classes may change."""
    files = {"image_root": image_root, "json_file": json_file, "evaluator_type": "coco"}
    order = {"thing_classes": classes, "thing_dataset_id_to_contiguous_id": class_of}
    known = MetadataCatalog.get(name).as_dict()
    # Whoever loads the same files again says what their classes are; of others' names they stay.
    for key, value in (files if name in _registered else {**files, **order}).items():
        # As strings: paths come as str and as Path. Of the classes the order alone may differ.
        texts = [sorted(x) if key in order else str(x) for x in (known.get(key, value), value)]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"Dataset name '{name}' is taken: it stands for {key} = "
                f"{shortened(known[key])}, and here for {shortened(value)}. Choose another name."
            )
    if name in _registered and name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
        _registered.add(name)
    # Its attributes are written once, and who has it keeps the order that was true for them.
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{**known, **files, **order, "name": name})


# ------------------------------------------------------------------------ checking the content


def _records(
    data: dict[str, list],
    name: str,
    image_root: str,
    json_file: str,
    class_of: dict[int, int],
    masks: bool,
    trusted: bool,
    evaluated: bool,
) -> list[dict]:
    """Detectron2's dataset dicts, by ascending image id."""
    images = sorted(data["images"], key=lambda image: image["id"])
    records = [
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
    image_of = _images_of(annotations, images, json_file)
    dropped = []
    segmentation_of = SegmentationCheck(json_file)
    with_mask: list[int] = []
    segmentations: list[Segmentation] = []
    for row, annotation in enumerate(annotations):
        record = records[image_of[row]]
        if annotation["category_id"] not in class_of:
            raise DataError(
                f"{json_file}: annotation {annotation['id']} has category_id "
                f"{annotation['category_id']}, which is not in 'categories' "
                f"(ids {shortened(sorted(class_of))})."
            )
        # Floats, for Detectron2's transforms cut the boxes of whole numbers to whole numbers.
        bbox = [float(value) for value in annotation["bbox"]]
        if is_degenerate(bbox, record["width"], record["height"]):
            dropped.append(annotation)
            continue
        item = {
            "iscrowd": int(is_crowd(annotation, json_file)),
            "bbox": bbox,
            "category_id": class_of[annotation["category_id"]],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        if evaluated:
            item |= {key: annotation.get(key) for key in EVALUATION_KEYS}
        if masks:
            item["segmentation"] = segmentation_of(annotation, record["height"], record["width"])
            with_mask.append(row)
            segmentations.append(item["segmentation"])
        record["annotations"].append(item)
    segmentation_of.report()
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)[image_of]

    def describe(row: int) -> str:
        width, height = sizes[row]
        box = reprlib.repr(annotations[row]["bbox"])
        return f"annotation {annotations[row]['id']}: {box} in an image of {width:g} x {height:g}"

    report(box_findings(boxes, sizes, image_of), len(boxes), describe, json_file, trusted)
    report(
        mask_findings(segmentations, boxes[with_mask], sizes[with_mask]),
        len(with_mask),
        lambda row: describe(with_mask[row]),
        json_file,
        trusted,
    )
    _report_dropped(dropped, len(annotations), json_file, trusted)
    return records


def _images_of(annotations: list[dict], images: list[dict], json_file: str) -> np.ndarray:
    """The index of every annotation's image."""
    index_of = {image["id"]: i for i, image in enumerate(images)}
    try:
        indices = [index_of[annotation["image_id"]] for annotation in annotations]
    except KeyError:
        lost = next(a for a in annotations if a["image_id"] not in index_of)
        raise DataError(
            f"{json_file}: annotation {lost['id']} belongs to image {lost['image_id']}, which is "
            "not in 'images'."
        ) from None
    return np.array(indices, dtype=np.int64)


def _report_dropped(dropped: list[dict], total: int, json_file: str, trusted: bool) -> None:
    """Warn of annotations without a use, or raise, if most have none."""
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
