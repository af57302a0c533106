"""Datasets in COCO's format: checked, loaded and known to Detectron2's catalogs.

A dataset is a folder of images and one JSON file, or a name that Detectron2 knows. Everything
that can be wrong with the files is looked for before training starts, and reported with the
number of the offending entry. The records are Detectron2's standard dataset dicts.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial as partial_call

from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..errors import DataError, shortened
from .annotation_cache import is_large, objects_of
from .array_file import Arrays
from .catalog import locate, register
from .categories import distinct_names
from .class_order import completed, in_order_of
from .dataset_dicts import Records
from .fingerprint import remember
from .ground_truth import GroundTruth, ground_truth, keep
from .image_check import check_files
from .remarks import Remark, tell_all

logger = logging.getLogger(__name__)


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
    cache: bool | str | None = None,
) -> Sequence[dict]:
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
        evaluated: keep the objects for `kept_truth` as well, so that evaluation needn't read the
            file again.
        cache: where what was found in a file of 20 MB or more is kept for the next start, and for
            the other processes of the machine: a folder; None for one beside the file or among the
            user's caches, false for nowhere. See `ms_detr.data.annotation_cache`.

    Returns:
        A list, or of such a file a sequence that makes its dicts when asked for them. One per
        image, by ascending image id: file_name, height, width, image_id, dataset_name, and
        annotations with bbox (x, y, width, height in pixels), bbox_mode, iscrowd and category_id,
        where 0 is the lowest category id of the file, 1 the next, and so
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
    image_root, json_file = locate(name, images, annotations)
    arrays = objects_of(json_file, masks, evaluated, cache)
    name_of = distinct_names(arrays.facts["categories"], json_file)
    if classes:
        if partial:
            name_of = completed(name_of, classes, json_file)
        name_of, moved = in_order_of(name_of, classes, name)
        if moved:
            logger.info(
                "dataset '%s': its classes are in the order of the weights, not of its ids", name
            )
    class_of = {category: i for i, category in enumerate(name_of)}
    tell_all(_remarks(arrays, "remarks"), json_file, trust_annotations)
    records = Records(arrays, name, image_root, class_of, masks)
    truth = None
    if evaluated:
        truth = ground_truth(records, name_of, masks)
        if comm.is_main_process():
            tell_all(_remarks(arrays, "area_remarks"), json_file)
    check_files(records.images(), image_root, json_file, look_inside=check_images)
    # Not a collective any more; nothing that was found is looked for again.
    again = partial_call(
        coco_dataset, name, image_root, json_file, masks, trust_annotations=True,
        check_images=False, classes=classes, partial=partial, evaluated=evaluated, cache=cache,
    )  # fmt: skip
    register(name, image_root, json_file, list(name_of.values()), class_of, again)
    remember(name, records)
    keep(name, records, truth)
    return records if is_large(json_file) else list(records)


def _remarks(arrays: Arrays, kind: str) -> list[Remark]:
    return [Remark(**remark) for remark in arrays.facts[kind]]


def read_truth(name: str, masks: bool = False) -> GroundTruth:
    """Read the objects of a dataset from the annotation file that Detectron2 knows of it.

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
    arrays = objects_of(json_file, masks, runs=masks)
    name_of = distinct_names(arrays.facts["categories"], json_file)
    class_of = metadata.get("thing_dataset_id_to_contiguous_id")
    if class_of is None:
        class_of = {category: i for i, category in enumerate(name_of)}
    elif not name_of.keys() <= class_of.keys():
        raise DataError(
            f"{json_file} has categories {shortened(sorted(name_of))}, but dataset '{name}' was "
            f"loaded with {shortened(sorted(class_of))}: was the file changed?"
        )
    if comm.is_main_process():
        tell_all(_remarks(arrays, "remarks"), json_file, trusted=True)
        tell_all(_remarks(arrays, "area_remarks"), json_file)
    names = metadata.get("thing_classes") or list(name_of.values())
    in_order = {
        category: names[class_of[category]] for category in sorted(class_of, key=class_of.get)
    }
    return ground_truth(Records(arrays, name, "", class_of, masks), in_order, masks)
