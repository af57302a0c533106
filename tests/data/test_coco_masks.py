"""Masks of COCO-format datasets: loading and checking segmentations."""

import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ms_detr.data import coco_dataset
from ms_detr.data.segmentation import to_bitmap

DIAGONAL = np.zeros((20, 30), dtype=np.uint8)
DIAGONAL[6:14, 5:12] = np.eye(8, 7)


def with_segmentations(folder) -> None:
    """A polygon that leaves the image, compressed and plain RLE."""
    first, crowd, last = folder.content["annotations"]
    first["segmentation"] = [[1, 2, 11, 2, 11, 7, 1, 7], [-5, 3, 2, 3, 2, 4]]
    runs = coco_mask.encode(np.asfortranarray(DIAGONAL))
    crowd["segmentation"] = {"size": [20, 30], "counts": runs["counts"].decode()}
    last["segmentation"] = {"size": [20, 30], "counts": [510, 90]}


def test_masks_are_kept_if_wanted(folder, caplog):
    plain = folder.load()
    with_segmentations(folder)
    folder.content["images"][0] |= {"height": 20.0, "width": 30.0}
    assert folder.load() == plain
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        records = coco_dataset(folder.name, folder.images, folder.json, masks=True)
    assert caplog.messages == []
    found = {
        (record["image_id"], i): annotation.pop("segmentation")
        for record in records
        for i, annotation in enumerate(record["annotations"])
    }
    assert records == plain
    polygons = found[7, 0]
    assert [p.tolist() for p in polygons] == folder.content["annotations"][0]["segmentation"]
    assert all(p.dtype == np.float32 for p in polygons)
    np.testing.assert_array_equal(coco_mask.decode(found[7, 1]), DIAGONAL)
    mask = np.zeros(600)
    mask[510:] = 1
    np.testing.assert_array_equal(coco_mask.decode(found[3, 0]), mask.reshape(30, 20).T)
    again = DatasetCatalog.get(folder.name)  # for other users of the catalogs, as loaded last
    assert all(a.pop("segmentation") for record in again for a in record["annotations"])
    assert again == plain


def test_wrong_segmentations_are_reported_together(folder):
    with_segmentations(folder)
    folder.content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5]]
    folder.content["annotations"][1]["segmentation"]["size"] = [30, 20]
    folder.content["annotations"][2].pop("segmentation")
    assert len(folder.load()) == 2  # nobody minds without masks
    with pytest.raises(ValueError) as error:
        coco_dataset(folder.name, folder.images, folder.json, masks=True)
    assert str(error.value) == (
        f"{folder.json}: 3 of 3 annotations can't be used with masks: "
        "annotation 1 has the polygon [1, 2, 3, 4, 5], not an even count of numbers "
        "[x1, y1, x2, y2, ...]; "
        "annotation 2 has an RLE of size [30, 20], but its image is [20, 30] ([height, width]); "
        "annotation 5 has no segmentation. Mend or remove them, or train "
        "without masks: with a config that has none, and dataloader.masks=false."
    )


def test_segmentations_of_dropped_boxes_are_not_looked_at(folder):
    with_segmentations(folder)
    folder.content["annotations"][0] |= {"bbox": [1, 1, 0, 4], "segmentation": None}
    folder.write()
    records = coco_dataset(folder.name, folder.images, folder.json, masks=True)
    assert [len(record["annotations"]) for record in records] == [1, 1]


def test_masks_of_the_demo_dataset_are_coco_s(load_demo, demo_dataset: Path):
    coco = COCO(demo_dataset / "annotations" / "train.json")
    for record in load_demo("train", masks=True):
        annotations = coco.loadAnns(coco.getAnnIds(record["image_id"]))
        for ours, theirs in zip(record["annotations"], annotations, strict=True):
            mask = to_bitmap(ours["segmentation"], 128, 128)
            np.testing.assert_array_equal(mask, coco.annToMask(theirs))
