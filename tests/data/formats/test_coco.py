"""COCO's files as others lay them out, and what is wrong with them."""

import json
import math

import pytest
from PIL import Image

from ms_detr.data import coco_dataset
from ms_detr.data.formats import FORMATS, import_dataset, recognise
from ms_detr.errors import DataError

from .support import read_split, whats, write_image, write_text

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}]


def coco(names, boxes, categories=CATEGORIES, first=1):
    """A file of images of 64 x 48, and annotations: image number, category, box."""
    return {
        "images": [
            {"id": first + i, "file_name": name, "width": 64, "height": 48}
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": first + i, "image_id": first + n, "category_id": k, "bbox": box, "iscrowd": 0}
            for i, (n, k, box) in enumerate(boxes)
        ],
        "categories": [*categories],
    }


def write(folder, json_name, root, content):
    write_text(folder / json_name, json.dumps(content))
    for number, image in enumerate(content["images"]):
        write_image(folder / root / image["file_name"], hash(json_name) % 1000 + number)


LAYOUTS = {
    "roboflow": [
        ("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid"),
    ],
    "official": [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_val2017.json", "val2017"),
    ],
    "images": [("train.json", "images"), ("val.json", "images")],
    "images by split": [
        ("annotations/train.json", "images/train"), ("annotations/val.json", "images/val"),
    ],
    "ours": [("annotations/train.json", "train"), ("annotations/val.json", "val")],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, layout):
    folder = tmp_path / "in"
    (train, root), (val, other) = layout
    write(folder, train, root, coco(["x 1.jpg", "é.jpg"], [(1, 5, [1, 2, 3.5, 4])]))
    write(folder, val, other, coco(["z.jpg"], [(0, 2, [5, 6, 7, 8])], first=70))
    if "instances" in val:
        write_text(
            folder / val.replace("instances", "captions"), '{"images": [], "annotations": []}'
        )
    assert recognise(folder).name == "coco"
    report = import_dataset("coco", folder, tmp_path / "out")
    assert report.images == {"train": 2, "val": 1} and not report.problems.as_json()
    assert report.classes == {"cat": 5, "dog": 2}
    out = tmp_path / "out"
    assert read_split(out, "train") == {"x 1.jpg": [], "é.jpg": [("cat", [1, 2, 3.5, 4], 0)]}
    content = json.loads((out / "annotations" / "val.json").read_text())
    assert [entry["id"] for entry in content["images"] + content["annotations"]] == [70, 70]


def test_headings_are_no_classes(tmp_path):
    """Roboflow writes one above all others, without an object."""
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
    ]
    write(tmp_path / "in", "train.json", "", coco(["a.png"], [(0, 1, [1, 2, 3, 4])], categories))
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert report.classes == {"cat": 1}


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    content = coco(names, [(i, 5, [1, 2, 3, 4]) for i in range(20)])
    write(tmp_path / "in", "train.json", "", content)

    def add(**changes):
        entry = {"id": len(content["annotations"]) + 1, "image_id": 1, "category_id": 5,
                 "bbox": [1, 2, 30, 40], "iscrowd": 0} | changes  # fmt: skip
        content["annotations"].append(entry)

    add(category_id=9)
    add(category_id=True)
    add(image_id=99)
    for box in ([1, 2, 3], "x", [1, 2, 3, None], [1, 2, math.nan, 4], [1, 2, 3, 10**400]):
        add(bbox=box)
    add(bbox=[1, 2, 0, 4])
    add(bbox=[64, 2, 3, 4])
    add(iscrowd=2)
    add(segmentation=[[1, 2, 3]])
    add(segmentation=[[1, 2, 3, 4], [1, 2, 9, 2, 9, 9]])
    add(segmentation={"size": [9, 9], "counts": "12"})
    add(iscrowd=1, segmentation={"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]})
    content["annotations"].append(7)
    content["images"] += [3, {"id": 1, "file_name": "0.png"}, {"id": 50, "file_name": "no.png"}]
    content["categories"] += [{"id": "x", "name": "y"}]
    content["images"][0]["width"] = 640
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert whats(report.problems.as_json()) == {
        "categories without an id or a name: passed over": 1,
        "images without an id or a file_name: left out": 1,
        "images whose id another has: left out": 1,
        "annotations of no image: left out": 2,
        "images that are missing: left out": 1,
        "images of another size than their labels say: boxes stay as they are": 1,
        "objects of an unknown category: left out": 2,
        "boxes that aren't four numbers: left out": 5,
        "boxes without a size in their image: left out": 2,
        "objects whose iscrowd is not 0 or 1: left out": 1,
        "segmentations that are wrong: only the box is kept": 2,
        "polygons of less than three points: passed over": 1,
    }
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert len(written["annotations"]) == 24
    whole = [entry for entry in written["annotations"] if "segmentation" in entry]
    assert [entry["area"] for entry in whole] == [pytest.approx(24.5, abs=8), 50]
    assert whole[1]["iscrowd"] == 1
    # What is written is what the loader takes.
    records = coco_dataset("formats_mended", tmp_path / "out" / "train",
                           tmp_path / "out" / "annotations" / "train.json")  # fmt: skip
    assert len(records) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": [}', "is not a JSON file"),
        ('{"images": [], "annotations": [], ', "can't be read: no JSON"),
        ('{"images": {}, "annotations": [], "categories": []}', "lacks one of the lists"),
        ('["images", "annotations"]', "no image of the form coco"),
        ('{"images": [], "annotations": [], "categories": []}', "no image of the form coco"),
    ],
)
def test_files_of_no_use(tmp_path, text, message):
    write_text(tmp_path / "in" / "train.json", text)
    with pytest.raises(DataError, match=message):
        import_dataset("coco", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("key", ["images", "zzz"])
def test_files_are_known_by_their_outermost_keys(tmp_path, key):
    """Whatever stands before them or behind, and whatever words the values have."""
    folder = tmp_path / "in"
    categories = [{"id": 5, "name": "shapes"}, {"id": 2, "name": "imagePath"}]
    content = coco([f"{i}.png" for i in range(30)], [(0, 5, [1, 2, 3, 4])], categories)
    write(folder, "train.json", "", content)
    content = {"aaa": " " * 100_000} | content | {"zzz": " " * 100_000}
    write_text(folder / "train.json", json.dumps(content, sort_keys=key == "images"))
    write(folder, "val.json", "", coco(["v.png"], [(0, 5, [1, 2, 3, 4])], categories))
    write_text(folder / "notes.json", json.dumps({"inner": content}))
    write_text(folder / "list.json", json.dumps([content]))
    assert recognise(folder).name == "coco"
    report = import_dataset("auto", folder, tmp_path / "out")
    assert report.images == {"train": 30, "val": 1} and not report.made_splits
    assert whats(report.problems.as_json()) == {
        "JSON files without images and annotations: passed over": 2
    }


@pytest.mark.parametrize("other", ["val.json", "instances_val.json", "person_keypoints_val.json"])
def test_only_what_stands_beside_its_instances_is_left(tmp_path, other):
    folder = tmp_path / "in" / "annotations"
    write(folder, "instances_train.json", "../images", coco(["a.png"], [(0, 5, [1, 2, 3, 4])]))
    write(folder, other, "../images", coco(["v.png"], [(0, 5, [1, 2, 3, 4])]))
    keypoints = coco(["a.png"], [(0, 5, [1, 2, 3, 4])])
    write_text(folder / "person_keypoints_train.json", json.dumps(keypoints))
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out")
    assert report.images == {"train": 1, "val": 1}
    assert report.problems.lines() == []


def test_two_files_of_a_split(tmp_path):
    for name in ("a.json", "b.json"):
        write(tmp_path / "in", name, "", coco(["a.png"], []))
    with pytest.raises(DataError, match=r"a\.json, b\.json are all of no split that their names"):
        import_dataset("coco", tmp_path / "in", tmp_path / "out")


def test_ids_that_two_files_give_to_different_classes(tmp_path):
    write(tmp_path / "in", "train.json", "", coco(["a.png"], [(0, 5, [1, 2, 3, 4])]))
    other = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cow"}]
    write(tmp_path / "in", "val.json", "", coco(["b.png"], [(0, 2, [1, 2, 3, 4])], other))
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out")
    assert report.classes == {"cat": 5, "dog": 2, "cow": 6}
    assert read_split(tmp_path / "out", "val") == {"b.png": [("cow", [1, 2, 3, 4], 0)]}


def test_names_that_lead_out_of_the_folder(tmp_path):
    content = coco(["a.png", "b.png"], [(0, 5, [1, 2, 3, 4])])
    write(tmp_path / "in", "train.json", "", content)
    (tmp_path / "in" / "b.png").rename(tmp_path / "b.png")
    content["images"][0]["file_name"] = str(tmp_path / "in" / "a.png")
    content["images"][1]["file_name"] = "../b.png"
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert all((tmp_path / "out" / "train" / name).is_file()
               for name in read_split(tmp_path / "out", "train"))  # fmt: skip


def test_every_form_has_its_name():
    assert [*FORMATS] == ["coco", "voc", "yolo", "labelme", "masks"]


@pytest.mark.parametrize("name", ["a\0.png", "\ud83d.png", "x" * 5000 + ".png", "/", "..", "deep/"])
def test_names_that_no_file_can_have(tmp_path, name):
    content = coco(["a.png", "b.png"], [(0, 5, [1, 2, 3, 4])])
    write(tmp_path / "in", "train.json", "", content)
    content["images"].append({"id": 9, "file_name": name, "width": 10**400, "height": math.inf})
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert report.problems.lost == {"images": 1} and report.images == {"train": 2}


@pytest.mark.parametrize("width", [10**400, math.inf, math.nan, -3, "64", None, True])
def test_widths_that_no_image_has(tmp_path, width):
    content = coco(["a.png", "b.png"], [(0, 5, [1, 2, 3, 4])])
    content["images"][0]["width"] = width
    write(tmp_path / "in", "train.json", "", content)
    import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [image["width"] for image in written["images"]] == [64, 64]


@pytest.mark.parametrize(
    ("tag", "told", "problem"),
    [
        (6, (64, 48), "images whose labels have the size before the image is turned upright"),
        (6, (48, 64), None),
        (3, (64, 48), "images that are turned by a tag, and keep their size"),
        (1, (64, 48), None),
    ],
)
def test_orientation_tags(tmp_path, tag, told, problem):
    """Boxes of the stored pixels are never given to the upright image."""
    content = coco(["a.png", "b.png", "c.png"], [(0, 5, [1, 2, 3, 4]), (1, 5, [1, 2, 3, 4])])
    write(tmp_path / "in", "train.json", "", content)
    content["images"][0] |= {"width": told[0], "height": told[1]}
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    with Image.open(tmp_path / "in" / "a.png") as image:
        tags = Image.Exif()
        tags[0x112] = tag
        image.save(tmp_path / "in" / "a.png", exif=tags)
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert len(report.problems.lines()) == (problem is not None)
    assert all(problem in line for line in report.problems.lines())
    is_left_out = problem is not None and tag == 6
    assert ("a.png" not in read_split(tmp_path / "out", "train")) == is_left_out


@pytest.mark.parametrize("crowd", [None, "", "0", 0.0, False])
def test_iscrowd_is_read_as_in_training(tmp_path, crowd):
    content = coco_of_one_image()
    content["annotations"][0]["iscrowd"] = crowd
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    write_image(tmp_path / "in" / "a.png")
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert not report.problems
    assert read_split(tmp_path / "out", "train") == {"a.png": [("cat", [1, 2, 30, 20], 0)]}


@pytest.mark.parametrize("table", ["images", "categories"])
def test_ids_of_more_than_64_bits(tmp_path, table):
    """Nothing could be trained on a file with them."""
    content = coco_of_one_image()
    content[table].append({**content[table][0], "id": 2**63, "name": "dog", "file_name": "b.png"})
    write_text(tmp_path / "in" / "train.json", json.dumps(content))
    for number, name in enumerate("ab"):
        write_image(tmp_path / "in" / f"{name}.png", number)
    report = import_dataset("coco", tmp_path / "in", tmp_path / "out", split=[1])
    assert len(report.problems.as_json()) == 1
    assert report.classes == {"cat": 1} and report.images == {"train": 1}


def coco_of_one_image() -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
