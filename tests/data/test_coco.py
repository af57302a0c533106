"""Loading and checking COCO-format datasets, and their place in Detectron2's catalogs."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode

from ms_detr.data import (
    OtherClassesError,
    check_classes,
    check_same_classes,
    class_names,
    coco_dataset,
)


def test_records(folder):
    first, second = folder.load()
    assert first == {
        "file_name": str(folder.images / "a.png"),
        "height": 20,
        "width": 30,
        "image_id": 3,
        "dataset_name": folder.name,
        "annotations": [
            {
                "iscrowd": 0,
                "bbox": [25.5, 10, 9, 9.5],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
            }
        ],
    }
    assert second["image_id"] == 7
    assert [(a["category_id"], a["iscrowd"]) for a in second["annotations"]] == [(2, 0), (0, 1)]


def test_catalogs(folder):
    records = folder.load()
    metadata = MetadataCatalog.get(folder.name)
    assert metadata.thing_classes == class_names(folder.name) == ["ant", "cat", "zebra"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 17: 1, 90: 2}
    assert metadata.json_file == str(folder.json)
    assert metadata.image_root == str(folder.images)
    assert metadata.evaluator_type == "coco"
    assert DatasetCatalog.get(folder.name) == records


def test_same_records_as_detectron2(load_demo, demo_dataset: Path):
    ours = load_demo("train")
    theirs = load_coco_json(
        str(demo_dataset / "annotations" / "train.json"), str(demo_dataset / "train"), "tests_other"
    )
    assert MetadataCatalog.get("tests_other").thing_classes == class_names("tests_demo_train")
    assert sum(len(record["annotations"]) for record in ours) > 50
    for record, other in zip(ours, theirs, strict=True):
        assert record.pop("dataset_name") == "tests_demo_train"
        for annotation in other["annotations"]:
            del annotation["segmentation"]
        assert record == other


def test_order_of_the_file_does_not_matter(folder):
    before = folder.load()
    folder.content = {key: entries[::-1] for key, entries in folder.content.items()}
    after = folder.load()
    for record in after:
        record["annotations"].reverse()  # these stay in the order of the file
    assert after == before


def test_images_without_annotations_are_kept(folder):
    folder.content["annotations"] = []
    assert [record["annotations"] for record in folder.load()] == [[], []]


def test_image_files_in_subfolders(folder):
    (folder.images / "deep" / "er").mkdir(parents=True)
    (folder.images / "a.png").rename(folder.images / "deep" / "er" / "a.png")
    folder.content["images"][1]["file_name"] = "deep/er/a.png"
    assert folder.load()[0]["file_name"] == str(folder.images / "deep" / "er" / "a.png")


def test_degenerate_boxes_are_dropped_with_one_warning(folder, caplog):
    boxes = [[1, 1, 0, 4], [1, 1, 4, -1], [1, 1, float("nan"), 4], [float("inf"), 1, 4, 4]]
    boxes += [[30, 1, 4, 4], [1, 20.5, 4, 4], [-9, 1, 9, 4], [1, -9, 4, 8]]  # outside the image
    boxes += [[1, 1, 4, 4]] * 5
    folder.content["annotations"] += [
        {"id": 100 + i, "image_id": 3, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)
    ]
    with caplog.at_level(logging.WARNING):
        records = folder.load()
    assert sum(len(record["annotations"]) for record in records) == 8
    (warning,) = caplog.messages
    assert "dropped 8 of 16 annotations" in warning
    assert "annotation 100 with bbox [1, 1, 0, 4]" in warning


def test_most_boxes_degenerate(folder, caplog):
    """An error, unless the file is trusted."""
    for annotation in folder.content["annotations"][:2]:
        annotation["bbox"][2] = 0
    with pytest.raises(ValueError, match=r"has 2 of 3 .* annotation 1 .* trust_annotations=true"):
        folder.load()
    records = coco_dataset(folder.name, folder.images, folder.json, trust_annotations=True)
    assert [len(record["annotations"]) for record in records] == [1, 0]
    assert "dropped 2 of 3" in caplog.text


@pytest.mark.parametrize(
    ("value", "expected"), [("0", 0), (None, 0), (False, 0), (0.0, 0), ("1", 1), (True, 1)]
)
def test_ways_to_write_iscrowd(folder, value, expected):
    folder.content["annotations"][2]["iscrowd"] = value
    assert folder.load()[0]["annotations"][0]["iscrowd"] == expected


def test_classes_of_two_datasets(folder, load_demo):
    folder.load()
    check_same_classes(folder.name, folder.name)
    load_demo("train")
    with pytest.raises(ValueError) as error:
        check_same_classes(folder.name, "tests_demo_train")
    names = ", ".join(map(repr, class_names("tests_demo_train")))
    assert f"{folder.json} lacks {names}; " in str(error.value)
    assert re.search(
        r"train\.json lacks 'ant', 'cat', 'zebra'\. Correct the names, or add", str(error.value)
    )


def test_classes_of_one_dataset_in_another_order(folder, tmp_path):
    folder.load()
    folder.content["categories"][0]["name"], folder.content["categories"][1]["name"] = (
        "ant",
        "zebra",
    )
    other = tmp_path / "other.json"
    other.write_text(json.dumps(folder.content))
    coco_dataset(f"{folder.name}_other", folder.images, other)
    with pytest.raises(ValueError, match=r"Class 0 is 'ant' in .* and 'zebra' in .* same order"):
        check_same_classes(folder.name, f"{folder.name}_other")


def test_a_file_of_some_of_the_classes(folder):
    """The others get ids that no category has; classes are numbered by name."""
    classes = ["zebra", "owl", "ant", "cat", "yak"]
    folder.content["categories"][1]["id"] = folder.content["annotations"][1]["category_id"] = 1
    folder.write()
    paths = folder.images, folder.json
    records = coco_dataset(folder.name, *paths, classes=classes, partial=True)
    assert [a["category_id"] for r in records for a in r["annotations"]] == [3, 0, 2]
    metadata = MetadataCatalog.get(folder.name)
    assert metadata.thing_classes == classes
    assert metadata.thing_dataset_id_to_contiguous_id == {90: 0, -1: 1, 1: 2, 17: 3, -2: 4}
    with pytest.raises(OtherClassesError, match="'owl', 'yak' only in the weights"):
        coco_dataset(f"{folder.name}_whole", *paths, classes=classes)
    again = DatasetCatalog.get(folder.name)  # as others ask for it
    assert [r["annotations"] for r in again] == [r["annotations"] for r in records]
    with pytest.raises(OtherClassesError, match="'cat' only in the dataset, 'yak' only in the wei"):
        coco_dataset(f"{folder.name}_other", *paths, classes=["zebra", "ant", "yak"], partial=True)


def test_another_order_of_the_same_files(folder):
    """Whoever loads a dataset last says how its classes are numbered, to Detectron2 as well."""
    own = folder.load()
    names = class_names(folder.name)
    turned = coco_dataset(folder.name, folder.images, folder.json, classes=names[::-1])
    assert class_names(folder.name) == names[::-1]
    for some in (turned, DatasetCatalog.get(folder.name)):
        for one, other in zip(own, some, strict=True):
            classes = [len(names) - 1 - a["category_id"] for a in other["annotations"]]
            assert classes == [a["category_id"] for a in one["annotations"]]


def test_a_good_file_gives_no_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        folder.load()
    assert caplog.messages == []


def test_annotation_ids_may_start_at_zero(folder, caplog):
    folder.content["annotations"][0]["id"] = 0
    with caplog.at_level(logging.WARNING):
        records = folder.load()
    assert sum(len(record["annotations"]) for record in records) == 3
    assert caplog.messages == []


def change(kind: str, index: int, key: str, value):
    def damage(folder):
        folder.content[kind][index][key] = value

    return damage


def remove(kind: str, index: int, key: str):
    return lambda folder: folder.content[kind][index].pop(key)


BAD_CONTENT = {
    "unknown category": (
        change("annotations", 1, "category_id", 5),
        r"annotation 2 has category_id 5, which no category of the file has \(ids \[4, 17, 90\]\)",
    ),
    "unknown image": (
        change("annotations", 2, "image_id", 8),
        r"annotation 5 has image_id 8, which no image",
    ),
    "image twice": (change("images", 1, "id", 7), r"id 7 comes twice in 'images' .*images\[1\]"),
    "annotation twice": (change("annotations", 2, "id", 1), r"id 1 comes twice in 'annotations'"),
    "category twice": (change("categories", 0, "id", 4), r"id 4 comes twice in 'categories'"),
    "no file name": (remove("images", 1, "file_name"), r"images\[1\] lacks 'file_name'"),
    "no bbox": (remove("annotations", 0, "bbox"), r"annotations\[0\] lacks 'bbox'"),
    "not a dict": (lambda folder: folder.content["images"].append(3), r"images\[2\] lacks 'id'"),
    "id a string": (
        change("images", 0, "id", "7"),
        r"images\[0\] has id = '7', not a whole number",
    ),
    "three numbers": (
        change("annotations", 0, "bbox", [1, 2, 3]),
        r"annotation 1 has bbox \[1, 2, 3\], which is not four numbers",
    ),
    "words": (change("annotations", 0, "bbox", [1, 2, "3", 4]), r"not four numbers"),
    "iscrowd": (
        change("annotations", 1, "iscrowd", "no"),
        r"annotation 2 has iscrowd = 'no', not 0 or 1",
    ),
    "no images": (lambda folder: folder.content["images"].clear(), r"list 'images' is empty"),
    "no categories": (lambda folder: folder.content.pop("categories"), r"lacks .* categories"),
    "list": (lambda folder: setattr(folder, "content", []), r"images, annotations, categories"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_bad_content(folder, damage, message: str):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        folder.load()
    assert str(folder.json) in str(error.value)
    assert folder.name not in DatasetCatalog


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"<html>"])
def test_not_json(folder, content: bytes):
    folder.json.write_bytes(content)
    with pytest.raises(ValueError, match=r"annotations\.json is not a JSON file"):
        coco_dataset(folder.name, folder.images, folder.json)


def test_missing_paths(folder):
    folder.write()
    with pytest.raises(FileNotFoundError, match=rf"'{folder.name}': .*image folder .*/nowhere"):
        coco_dataset(folder.name, folder.images / "nowhere", folder.json)
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*/nowhere\.json"):
        coco_dataset(folder.name, folder.images, folder.json.with_name("nowhere.json"))
    with pytest.raises(ValueError, match="'annotations' is missing"):
        coco_dataset(folder.name, images=folder.images)
    with pytest.raises(ValueError, match="'images' is missing"):
        coco_dataset(folder.name, annotations=folder.json)


def test_missing_image_files(folder):
    folder.content["images"] += [
        {"id": 10 + i, "file_name": f"c{i}.png", "height": 1, "width": 1} for i in range(4)
    ]
    listed = Path(f"{folder.json}.bad-images.txt")
    for check in (False, True):
        with pytest.raises(
            FileNotFoundError, match=r"^4 image file.* c0\.png, c1\.png, c2\.png and 1 more"
        ) as error:
            folder.load(check_images=check)
        assert str(error.value).endswith(f" (all of them are listed in {listed})")
        assert listed.read_text().split() == [str(folder.images / f"c{i}.png") for i in range(4)]


def test_loading_twice_and_a_name_that_is_taken(folder, tmp_path: Path):
    assert folder.load() == folder.load()
    other = tmp_path / "other.json"
    other.write_text(json.dumps(folder.content))
    with pytest.raises(ValueError, match=rf"'{folder.name}' is taken.*json_file.*another name"):
        coco_dataset(folder.name, folder.images, other)
    assert MetadataCatalog.get(folder.name).json_file == str(folder.json)
    folder.content["categories"][0]["name"] = "horse"
    folder.load()  # an edited file is the same dataset
    assert "horse" in class_names(folder.name)


def test_a_dataset_that_the_user_registered(folder):
    folder.write()
    register_coco_instances(folder.name, {}, folder.json, folder.images)  # as Path objects
    assert [record["image_id"] for record in coco_dataset(folder.name)] == [3, 7]
    assert class_names(folder.name) == ["ant", "cat", "zebra"]


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'coco_2017_trian' .* 'images' .* coco_2017_train"):
        coco_dataset("coco_2017_trian")
    with pytest.raises(ValueError, match="'ade20k_sem_seg_train' is not a COCO-format"):
        coco_dataset("ade20k_sem_seg_train")
    with pytest.raises(ValueError, match="dataset.name is None"):
        coco_dataset(None)
    with pytest.raises(ValueError, match="'never_heard' are unknown"):
        class_names("never_heard")


def test_number_of_classes(folder):
    folder.load()
    check_classes(folder.name, 3)
    with pytest.raises(ValueError, match=rf"'{folder.name}' has 3 .* 2: set model\.num_classes=3"):
        check_classes(folder.name, 2)
    with pytest.raises(
        ValueError, match=r"3 classes \('ant', 'cat', 'zebra'\), the model 80\. If the model is to "
        rf"know these alone, set model\.num_classes=3; .* categories to {folder.json}"
    ):  # fmt: skip
        check_classes(folder.name, 80)
    check_classes("coco_2017_val", 80)  # known without the files


def test_coco_where_detectron2_looks_for_it(folder, tmp_path: Path):
    """In a process of its own, as the environment variable is read when Detectron2 is imported."""
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    folder.content["categories"] = [
        {"id": i, "name": name} for i, name in zip(ids, names, strict=True)
    ]
    folder.write()
    annotations = tmp_path / "coco" / "annotations"
    annotations.mkdir(parents=True)
    folder.images.rename(tmp_path / "coco" / "val2017")
    folder.json.rename(annotations / "instances_val2017.json")
    code = """
from ms_detr.data import check_classes, coco_dataset
records = coco_dataset("coco_2017_val")
check_classes("coco_2017_val", 80)
print([[a["category_id"] for a in record["annotations"]] for record in records])
coco_dataset("coco_2017_train")
"""
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.stdout == "[[15], [79, 3]]\n"
    error = result.stderr.splitlines()[-1]
    assert error.startswith("ms_detr.errors.MissingFileError: Dataset 'coco_2017_train'")
    assert str(annotations / "instances_train2017.json") in error
    assert "DETECTRON2_DATASETS" in error and "coco/train2017" in error
