"""Datasets by the names under which Detectron2, or their user, knows them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from ms_detr.data import ImageCounts, coco_dataset, kept_truth
from ms_detr.errors import ConfigError, DataError, MissingFileError, MissingPackageError

_numbers = itertools.count()
MASK = np.zeros((20, 30), np.uint8)
MASK[5:15, 10:25] = 1
POLYGON = [2, 3, 12, 3, 12, 18, 2, 18]


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Registers a function of records under a new name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = []

    def register(function, classes=("cat", "dog"), **metadata):
        name = f"registered_{next(_numbers)}"
        DatasetCatalog.register(name, function)
        if classes:
            MetadataCatalog.get(name).set(thing_classes=list(classes), **metadata)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def records(tmp_path):
    files = []
    for i in range(3):
        files.append(tmp_path / f"bild {i}.png")
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(files[-1])
    rle = coco_mask.encode(np.asfortranarray(MASK))
    return [
        {
            "file_name": str(files[0]), "height": 20, "width": 30, "image_id": "a",
            "annotations": [
                {"bbox": [2, 3, 12, 18], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1,
                 "segmentation": [POLYGON]},
                {"bbox": [10, 5, 15, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
                 "segmentation": rle, "iscrowd": 0},
            ],
        },
        {"file_name": str(files[1]), "image_id": "b", "annotations": []},
        {
            "file_name": str(files[2]), "height": 20, "width": 30, "image_id": "c",
            "annotations": [
                {"bbox": np.array([10.0, 5, 25, 15]), "bbox_mode": 0, "category_id": 1,
                 "segmentation": MASK, "iscrowd": 1},
            ],
        },
    ]  # fmt: skip


@pytest.mark.parametrize("masks", [False, True])
def test_a_function_that_was_registered(registered, records, masks):
    name = registered(lambda: records)
    found = coco_dataset(name, masks=masks, evaluated=True)
    assert [x["file_name"] for x in found] == [x["file_name"] for x in records]
    assert [(x["height"], x["width"]) for x in found] == [(20, 30)] * 3
    boxes = [[(a["category_id"], a["bbox"], a["iscrowd"]) for a in x["annotations"]] for x in found]
    assert boxes == [
        [(1, [2, 3, 10, 15], 0), (0, [10, 5, 15, 10], 0)],
        [],
        [(1, [10, 5, 15, 10], 1)],
    ]
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    truth = kept_truth(name, masks)
    assert sorted(truth.areas.tolist()) == [150, 150, 150]
    if masks:
        first, second = found[0]["annotations"]
        assert np.ravel(first["segmentation"][0]).tolist() == POLYGON
        assert (coco_mask.decode(second["segmentation"]) == MASK).all()
    # Again, as a resumed run does, and by its own function still.
    again = coco_dataset(name)
    assert [[a["bbox"] for a in x["annotations"]] for x in again] == [
        [a["bbox"] for a in x["annotations"]] for x in found
    ]
    assert DatasetCatalog.get(name) is records


def test_ids_of_the_user_are_kept(registered, records, tmp_path):
    name = registered(lambda: records, thing_dataset_id_to_contiguous_id={17: 0, 5: 1})
    for number, record in enumerate(records):
        record["image_id"] = 100 + number
    # Category 5 comes before 17: the order of classes is the one that was registered.
    found = coco_dataset(name, classes=["cat", "dog"])
    assert [x["image_id"] for x in found] == [100, 101, 102]
    assert [a["category_id"] for a in found[0]["annotations"]] == [1, 0]
    content = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
    assert {c["id"]: c["name"] for c in content["categories"]} == {17: "cat", 5: "dog"}


def test_counts_of_images(registered, records):
    name = registered(lambda: records)
    with pytest.raises(ConfigError, match="wasn't loaded"):
        ImageCounts(name)()
    records[0]["annotations"].append(dict(records[0]["annotations"][0]))
    coco_dataset(name)
    assert ImageCounts(name)() == [1, 2]


def test_what_is_wrong_with_a_registration(registered, records):
    with pytest.raises(ConfigError, match="have no names: where it is registered, add"):
        coco_dataset(registered(lambda: records, classes=()))
    with pytest.raises(DataError, match="is no list of dicts"):
        coco_dataset(registered(lambda: 3))
    with pytest.raises(DataError, match="KeyError: 'bbox'"):
        del records[0]["annotations"][0]["bbox"]
        coco_dataset(registered(lambda: records))

    def without():
        import a_package_that_nobody_has  # noqa: F401

    with pytest.raises(MissingPackageError, match="needs a_package_that_nobody_has: python -m pip"):
        coco_dataset(registered(without))
    with pytest.raises(ConfigError, match="is not a COCO-format dataset that Detectron2 knows"):
        coco_dataset("ade20k_sem_seg_train")


def test_cityscapes(registered, tmp_path):
    """By Detectron2's own reader, from files as they are published."""
    pytest.importorskip("cityscapesscripts")
    pytest.importorskip("shapely")
    from detectron2.data.datasets.cityscapes import load_cityscapes_instances

    images, labels = tmp_path / "leftImg8bit/train", tmp_path / "gtFine/train"
    for folder in (images / "aachen", labels / "aachen"):
        folder.mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(images / "aachen/aachen_0_1_leftImg8bit.png")
    content = {"imgHeight": 32, "imgWidth": 64, "objects": [
        {"label": "road", "polygon": [[0, 20], [63, 20], [63, 31], [0, 31]]},
        {"label": "car", "polygon": [[10, 8], [30, 8], [30, 24], [10, 24]]},
    ]}  # fmt: skip
    (labels / "aachen/aachen_0_1_gtFine_polygons.json").write_text(json.dumps(content))
    for kind in ("instanceIds", "labelIds"):  # are expected to be there
        Image.new("L", (64, 32)).save(labels / f"aachen/aachen_0_1_gtFine_{kind}.png")
    builtin = MetadataCatalog.get("cityscapes_fine_instance_seg_train")
    name = registered(
        lambda: load_cityscapes_instances(str(images), str(labels), True, True),
        builtin.thing_classes,
        evaluator_type="cityscapes_instance",
    )
    (record,) = coco_dataset(name, masks=True, evaluated=True)
    (item,) = record["annotations"]
    assert MetadataCatalog.get(name).thing_classes[item["category_id"]] == "car"
    x, y, w, h = item["bbox"]
    # Vertices are pixels, the last ones included.
    assert (x, y, x + w, y + h) == pytest.approx((10, 8, 31, 25), abs=0.5)
    assert kept_truth(name, True).areas.tolist() == pytest.approx([21 * 17], rel=0.1)


@pytest.mark.parametrize("name", ["voc_2007_train", "cityscapes_fine_instance_seg_val"])
def test_files_that_arent_there(name, monkeypatch, tmp_path):
    if name.startswith("cityscapes"):
        pytest.importorskip("cityscapesscripts")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="there is no .* DETECTRON2_DATASETS"):
        coco_dataset(name)


def test_lvis_files_tell_images_by_their_address(tmp_path):
    folder = tmp_path / "coco/val2017"
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(folder / "000000000007.png")
    content = {
        "images": [{"id": 7, "width": 30, "height": 20, "not_exhaustive_category_ids": [],
                    "neg_category_ids": [2],
                    "coco_url": "http://images.cocodataset.org/val2017/000000000007.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 12],
                         "area": 120, "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]]}],
        "categories": [{"id": 1, "name": "bow_(weapon)", "frequency": "r"},
                       {"id": 2, "name": "cat", "frequency": "f"}],
    }  # fmt: skip
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps(content))
    name = f"lvis_{next(_numbers)}"
    # As Detectron2 registers it, with a synonym for a name.
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        json_file=str(file), image_root=str(tmp_path / "coco"), evaluator_type="lvis",
        thing_classes=["bow", "cat"],
    )  # fmt: skip
    (record,) = coco_dataset(name)
    assert record["file_name"] == str(folder / "000000000007.png")
    assert MetadataCatalog.get(name).thing_classes == ["bow_(weapon)", "cat"]
    assert MetadataCatalog.get(name).evaluator_type == "lvis"
    assert ImageCounts(name)() == [1, 0]
