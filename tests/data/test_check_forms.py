"""Datasets of other forms than COCO's: what is found in them, and their mended copies."""

import json

import numpy as np
import pytest
from PIL import Image

from ms_detr.data.check import Kind, check_dataset, write_mended
from ms_detr.data.formats import import_dataset

from .formats.support import shape, voc_object, write_image, write_labelme, write_text, write_xml

ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
BOX = (5, 6, 30, 40)


def write_voc(folder):
    for number in range(8):
        write_image(folder / f"bild ä{number}.png", number)
        write_xml(folder / f"bild ä{number}.xml", voc_object("cat", BOX))


def write_yolo(folder):
    write_text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")
    for number in range(8):
        split = "val" if number > 5 else "train"
        write_image(folder / "images" / split / f"{number}.png", number)
        write_text(folder / "labels" / split / f"{number}.txt", "0 0.5 0.5 0.4 0.3\n")


def write_labelmes(folder):
    for number in range(8):
        write_image(folder / f"{number}.png", number)
        points = [[5, 5], [40, 5], [20, 30]]
        write_labelme(folder / f"{number}.json", [shape("cat", "polygon", points)], f"{number}.png")


def write_masks(folder):
    for number in range(8):
        write_image(folder / f"{number}" / "images" / f"{number}.png", number)
        mask = np.zeros((48, 64), np.uint8)
        mask[5:20, 7:30] = 255
        (folder / f"{number}" / "masks").mkdir()
        Image.fromarray(mask).save(folder / f"{number}" / "masks" / "1.png")


FORMS = {"voc": write_voc, "yolo": write_yolo, "labelme": write_labelmes, "masks": write_masks}


@pytest.mark.parametrize("form", FORMS)
def test_clean_folders(tmp_path, form):
    FORMS[form](tmp_path / "data")
    checked = check_dataset(tmp_path / "data")
    assert checked.located.form.name == form and checked.groups == ()
    assert sum(split.objects for split in checked.statistics.splits.values()) == 8
    mended = write_mended(checked, tmp_path / "copy")
    assert mended.form == ("coco" if form == "masks" else form)
    assert mended.rest.groups == () and mended.images == mended.objects == 8
    assert not mended.problems


def test_voc(tmp_path):
    data = tmp_path / "data"
    write_voc(data)
    write_xml(data / "gone.xml", voc_object("cat", BOX))
    write_xml(data / "bild ä1.xml", voc_object("cat", (5, 6, 4, 40)) + voc_object("cat", BOX))
    (data / "bild ä2.xml").write_text(ENTITIES)
    write_xml(data / "bild ä3.xml", voc_object("cat", BOX), size=(90, 48))
    write_image(data / "bild ä5.png", 4)  # the pixels of 4
    checked = check_dataset(data)
    found = {(group.kind, group.what): group.count for group in checked.groups}
    assert found == {
        (Kind.MISSING_IMAGE, Kind.MISSING_IMAGE.what): 1,
        (Kind.IMAGE_SIZE, Kind.IMAGE_SIZE.what): 1,
        (Kind.DUPLICATE_IMAGE, Kind.DUPLICATE_IMAGE.what): 1,
        (Kind.DOUBTFUL_LABELS, "XML files that can't be read: passed over"): 1,
        (Kind.LABELS, "boxes without a size in their image"): 1,
        (Kind.LABELS, "images without an XML file that can be read"): 1,
    }
    mended = write_mended(checked, tmp_path / "mended")
    assert mended.rest.groups == () and mended.images == 5 and mended.objects == 5
    assert "a" * 40 not in (tmp_path / "mended" / "Annotations" / "bild ä1.xml").read_text()


def test_classes_are_in_the_order_that_training_gives_them(tmp_path):
    data = tmp_path / "data"
    write_voc(data)
    write_xml(data / "bild ä1.xml", voc_object("wolf", BOX) + voc_object("ant", BOX))
    import_dataset("voc", data, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "train.json").read_text())
    checked = check_dataset(data)
    assert checked.as_json()["classes"] == [one["name"] for one in content["categories"]]
    assert next(iter(checked.statistics.splits.values())).by_class == {
        "ant": 1,
        "cat": 7,
        "wolf": 1,
    }


def test_yolo(tmp_path):
    data = tmp_path / "data"
    write_yolo(data)
    labels = data / "labels" / "train"
    write_text(labels / "0.txt", "0 0.5 0.5 0.4 0.3\n3 0.5 0.5 0.1 0.1\n0 0.5 nan 0.1 0.1\n")
    write_image(data / "images" / "train" / "1.png", 7)  # the pixels of an image of val
    (data / "images" / "val" / "6.png").write_bytes(b"\x89PNG")
    counts = check_dataset(data).counts()
    assert counts == {Kind.BROKEN_IMAGE: 1, Kind.LEAKED_IMAGE: 1, Kind.LABELS: 2}
    mended = write_mended(check_dataset(data), tmp_path / "mended")
    assert mended.rest.groups == () and mended.images == 6


def test_files_of_nothing_and_of_something_else(tmp_path):
    """Told where it can be told, and an error where there is nothing to look at."""
    content = {"images": [{"id": 1, "file_name": "a\0b.png", "width": 3, "height": 3}],
               "annotations": {"id": 1}, "categories": [[1]]}  # fmt: skip
    (tmp_path / "odd.json").write_text(json.dumps(content))
    assert check_dataset(tmp_path / "odd.json").counts() == {Kind.ENTRY: 3}
    text = '{"images": [{"id": NaN, "file_name": "a.png", "width": Infinity, "height": 1e999}]}'
    (tmp_path / "nan.json").write_text(text)
    # The image's id, and two lists that aren't there.
    assert check_dataset(tmp_path / "nan.json").counts() == {Kind.ENTRY: 3}


def test_an_image_of_one_pixel(tmp_path):
    write_voc(tmp_path)
    write_image(tmp_path / "dot.png", 50, (1, 1))
    write_xml(tmp_path / "dot.xml", voc_object("cat", (1, 1, 1, 1)), size=(1, 1))
    found = {(g.kind, g.what): g.count for g in check_dataset(tmp_path).groups}
    assert found == {
        (Kind.DOUBTFUL_LABELS, "boxes of one pixel, as a click leaves them: kept"): 1,
        (Kind.WHOLE_BOX, Kind.WHOLE_BOX.what): 1,
    }
