"""Datasets that are functions in Detectron2's catalog, as COCO files that all else can read.

Cityscapes' instances are such, and what users register. The function is called, and what it returns
is written once among the user's caches; equal records are the same file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..errors import ConfigError, DataError, MissingFileError, MissingPackageError
from ..files import write_text
from ..locks import waiting
from ..paths import users_cache
from .image_headers import examine
from .segmentation import to_runs

logger = logging.getLogger(__name__)

ROOT = os.path.abspath(os.sep)  # file names are whole paths


def as_coco_file(name: str) -> tuple[str, str]:
    """Call the function of a name, and return an image folder and an annotation file of its data.

    Raises:
        ConfigError: the names of its classes are unknown.
        MissingPackageError: the function needs a package that isn't there.
        MissingFileError: its files aren't there.
        DataError: what it returns aren't Detectron2's dataset dicts.
    """
    records = _called(name)
    content = _content(name, records)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    plain = "".join(x if x.isalnum() or x in "-_" else "_" for x in name)
    path = users_cache() / "registered" / f"{plain}-{digest}.json"
    with waiting(path.with_name("lock"), f"dataset '{name}' is being written by another process"):
        if not path.is_file():
            write_text(path, text)
            logger.info("dataset '%s' is written to %s", name, path)
    return ROOT, str(path)


def _called(name: str) -> Sequence[Mapping[str, Any]]:
    try:
        records = DatasetCatalog.get(name)
    except ImportError as error:
        package = error.name or str(error)
        raise MissingPackageError(
            f"dataset '{name}' needs {package}: python -m pip install {package}"
        ) from error
    except (FileNotFoundError, AssertionError) as error:  # Detectron2's loaders have both
        missing = getattr(error, "filename", None) or error
        raise MissingFileError(
            f"dataset '{name}' can't be loaded: there is no {missing}. Detectron2's datasets lie "
            "in the folder that the environment variable DETECTRON2_DATASETS names ('datasets' if "
            "unset)"
        ) from error
    if not isinstance(records, Sequence) or not all(isinstance(x, Mapping) for x in records):
        raise DataError(f"dataset '{name}' is no list of dicts, as Detectron2's datasets are")
    return records


def _content(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return dataset dicts as COCO's JSON; ids of images are kept if they are whole and unlike."""
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes")
    if not names:
        raise ConfigError(
            f"the classes of dataset '{name}' have no names: where it is registered, add "
            f"MetadataCatalog.get({name!r}).thing_classes = [...]"
        )
    known = metadata.get("thing_dataset_id_to_contiguous_id")
    ids = {k: number for number, k in known.items()} if known else {k: k + 1 for k in
                                                                     range(len(names))}  # fmt: skip
    try:
        images = _images(name, records)
        return {
            "images": images,
            "annotations": [
                {"id": number, **entry}
                for number, entry in enumerate(
                    (
                        _annotation(item, image, ids)
                        for record, image in zip(records, images, strict=True)
                        for item in record.get("annotations", ())
                    ),
                    1,
                )
            ],
            "categories": [{"id": ids[k], "name": text} for k, text in enumerate(names)],
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"dataset '{name}' has records that aren't Detectron2's dataset dicts: "
            f"{type(error).__name__}: {error}"
        ) from error


def _images(name: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    numbers = [record.get("image_id") for record in records]
    keep = all(type(n) is int for n in numbers) and len(set(numbers)) == len(numbers)
    files = [os.path.abspath(record["file_name"]) for record in records]
    unknown = [f for f, r in zip(files, records, strict=True) if not {"height", "width"} <= {*r}]
    headers = examine(unknown)
    images = []
    for number, (file, record) in enumerate(zip(files, records, strict=True), 1):
        if file in headers:
            header = headers[file].header
            if header is None:
                raise DataError(
                    f"dataset '{name}': {headers[file].problem or file + ' is missing'}"
                )
            width, height = header.size
        else:
            width, height = record["width"], record["height"]
        images.append(
            {
                "id": record["image_id"] if keep else number,
                "file_name": file,
                "width": int(width),
                "height": int(height),
            }
        )
    return images


def _annotation(
    item: Mapping[str, Any], image: Mapping[str, Any], ids: Mapping[int, int]
) -> dict[str, Any]:
    box = [float(number) for number in item["bbox"]]
    box = BoxMode.convert(box, BoxMode(item["bbox_mode"]), BoxMode.XYWH_ABS)
    entry: dict[str, Any] = {
        "image_id": image["id"],
        "category_id": ids[item["category_id"]],
        "bbox": [float(number) for number in box],
        "iscrowd": int(item.get("iscrowd", 0)),
        "area": float(box[2] * box[3]),
    }
    found = item.get("segmentation")
    if found is not None and len(found):
        entry["segmentation"] = found = _segmentation(found)
        size = image["height"], image["width"]
        if isinstance(found, list):
            found = coco_mask.merge(coco_mask.frPyObjects(found, *size))
        entry["area"] = float(coco_mask.area(found))
    return entry


def _segmentation(value: Any) -> Any:
    """Polygons, or compressed run lengths, of plain kinds."""
    if isinstance(value, np.ndarray):
        value = to_runs(value, *value.shape)
    if isinstance(value, Mapping):
        counts = value["counts"]
        if isinstance(counts, list):
            value = coco_mask.frPyObjects(dict(value), *value["size"])
            counts = value["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        return {"size": [int(side) for side in value["size"]], "counts": text}
    return [np.asarray(polygon, np.float64).ravel().tolist() for polygon in value]
