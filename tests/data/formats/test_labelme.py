"""LabelMe's shapes, and what is wrong with files of it."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ms_detr.data.formats import import_dataset

from .support import read_split, shape, whats, write_image, write_labelme, write_text


def write_dataset(folder, shapes):
    """Image a in train with shapes, and b in val with none."""
    for split, name, inner in (("train", "a", shapes), ("val", "b", [])):
        write_image(folder / split / f"{name}.png", len(inner))
        write_labelme(folder / split / f"{name}.json", inner, f"{name}.png")


def imported(tmp_path):
    report = import_dataset("labelme", tmp_path / "in", tmp_path / "out")
    return report, json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())


def png(bitmap):
    stream = io.BytesIO()
    Image.fromarray(bitmap.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def broken_png():
    """Pillow raises a SyntaxError of it."""
    content = bytearray(base64.b64decode(png(np.ones((9, 9)))))
    place = content.index(b"IDAT")
    content[place - 4 : place] = (4).to_bytes(4, "big")  # too short: no chunk follows
    return base64.b64encode(content).decode()


def test_shapes(tmp_path):
    bitmap = np.zeros((3, 4), bool)
    bitmap[1:, 1:3] = True
    write_dataset(
        tmp_path / "in",
        [
            shape("cat", "rectangle", [[20.5, 30], [10, 5]]),
            shape("dog", "polygon", [[1, 2], [11, 2], [6, 12.5]]),
            shape("cat", "circle", [[30, 20], [33, 24]]),
            shape("cat", "mask", [[7, 8], [10, 10]], mask=png(bitmap)),
            shape("cat", "rectangle", [[1, 1], [5, 5]], flags={"iscrowd": True, "truncated": True}),
        ],
    )
    report, content = imported(tmp_path)
    assert not report.problems and report.classes == {"cat": 1, "dog": 2}
    box, polygon, circle, mask, crowd = content["annotations"]
    assert box["bbox"] == [10, 5, 10.5, 25] and "segmentation" not in box and box["area"] == 262.5
    assert polygon["bbox"] == [1, 2, 10, 10.5]
    assert polygon["segmentation"] == [[1, 2, 11, 2, 6, 12.5]]
    assert circle["bbox"] == [25, 15, 10, 10]
    points = np.reshape(circle["segmentation"][0], (-1, 2))
    assert np.hypot(*(points - [30, 20]).T) == pytest.approx(5)
    assert circle["area"] == pytest.approx(math.pi * 25, rel=0.1)
    expected = np.zeros((48, 64), bool)
    expected[9:11, 8:10] = True
    assert (coco_mask.decode(mask["segmentation"]) == expected).all()
    assert mask["bbox"] == [8, 9, 2, 2] and mask["area"] == 4
    assert crowd["iscrowd"] == 1 and crowd["truncated"] == 1


def test_groups_are_one_object(tmp_path):
    write_dataset(
        tmp_path / "in",
        [
            shape("cat", "polygon", [[1, 1], [5, 1], [5, 5]], group_id=1),
            shape("cat", "polygon", [[20, 20], [25, 20], [25, 30]], group_id=1),
            shape("dog", "polygon", [[1, 1], [5, 1], [5, 5]], group_id=1),
            shape("dog", "rectangle", [[1, 1], [5, 5]], group_id=1),
            shape("cat", "mask", [[7, 8], [10, 10]], mask=png(np.ones((3, 4))), group_id=2),
            shape("cat", "polygon", [[1, 1], [5, 1], [5, 5], [1, 5]], group_id=2),
        ],
    )
    _, content = imported(tmp_path)
    cat, dog, other = content["annotations"]
    assert cat["bbox"] == [1, 1, 24, 29] and len(cat["segmentation"]) == 2
    assert dog["bbox"] == [1, 1, 4, 4] and "segmentation" not in dog
    assert other["bbox"] == [1, 1, 10, 10] and other["area"] == 12 + 16


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    folder = tmp_path / "in" / "train"
    good = [shape("cat", "rectangle", [[1, 1], [5, 5]])] * 20
    bad = [
        "x", shape(None, "rectangle", [[1, 1], [5, 5]]), shape(" ", "rectangle", [[1, 1], [5, 5]]),
        shape("cat", "polygon", [[1, 1], [5, 5]]), shape("cat", "line", [[1, 1], [5, 5]]),
        shape("cat", "rectangle", [[1, 1], [5, None]]), shape("cat", "rectangle", [[1, 1], [5]]),
        shape("cat", "rectangle", [[1, 1], [5, math.nan]]), shape("cat", "rectangle", {"a": 1}),
        shape("cat", "rectangle", [[1, 1], [10**400, 5]]), shape("cat", "circle", [[1, 1]]),
        shape("cat", "mask", [[1, 1], [5, 5]]), shape("cat", "mask", [[1, 1]], mask="????"),
        shape("cat", "mask", [[1, 1]], mask=broken_png()),
        shape("cat", "mask", [[60, 1]], mask=png(np.ones((9, 9)))),
        shape("cat", "mask", [[1, 1]], mask=png(np.ones((99, 9)))),
        shape("cat", "mask", [[1, 1]], mask=png(np.zeros((9, 9)))),
        shape("cat", "rectangle", [[1, 1], [1, 5]]), shape("cat", "rectangle", [[-5, 1], [5, 5]]),
    ]  # fmt: skip
    write_dataset(tmp_path / "in", good + bad)
    write_text(folder / "c.json", '{"shapes": NaN}')
    write_text(folder / "d.json", "[" * 100_000)
    write_text(folder / "e.json", '["shapes"]')
    write_labelme(folder / "f.json", good, "..\\somewhere\\f.png")
    write_labelme(folder / "g.json", good, "g.png", (640, 480))
    write_image(folder / "g.png", 1)
    write_labelme(folder / "again.json", good, "a.png")
    write_image(folder / "alone.png", 2)
    report, _ = imported(tmp_path)
    assert whats(report.problems.as_json()) == {
        "JSON files that aren't LabelMe's: passed over": 3,
        "JSON files of an image that another has: passed over": 1,
        "images without a JSON file: left out": 1,
        "images that are missing: left out": 1,
        "images of another size than their labels say: boxes stay as they are": 1,
        "shapes that hold no keys: left out": 1,
        "shapes without a label: left out": 2,
        "shapes called polygons of less than three points: left out": 1,
        "shapes of the kind 'line', which has no area: left out": 1,
        "shapes whose points aren't pairs of numbers: left out": 5,
        "shapes called circles without a centre and a point: left out": 1,
        "shapes with a mask that can't be read: left out": 3,
        "shapes with a mask that leaves the image: left out": 1,
        "shapes with a mask that is larger than the image: left out": 1,
        "shapes with a mask without a pixel: left out": 1,
        "shapes without a size in their image: left out": 1,
        "boxes that leave their image: cut at its edge": 1,
    }
    assert read_split(tmp_path / "out", "train")["a.png"][-1] == ("cat", [0, 1, 5, 4], 0)


def test_flags_are_true_or_false(tmp_path):
    """A text such as "0" is neither, and makes no crowd."""
    flags = [{"iscrowd": "0"}, {"iscrowd": True}, {"iscrowd": 1, "difficult": "no"}, {}]
    for number, own in enumerate(flags):
        write_image(tmp_path / "in" / f"a{number}.png", number)
        shapes = [shape("cat", "circle", [[30, 20], [30, 30]], flags=own)]
        write_labelme(tmp_path / "in" / f"a{number}.json", shapes, f"a{number}.png")
    report = import_dataset("labelme", tmp_path / "in", tmp_path / "out", split=[1])
    found = read_split(tmp_path / "out", "train")
    assert [found[f"a{number}.png"][0][2] for number in range(4)] == [0, 1, 1, 0]
    assert whats(report.problems.as_json()) == {
        "flags iscrowd that are neither true nor false: passed over": 1,
        "flags difficult that are neither true nor false: passed over": 1,
    }
    assert report.problems.as_json()[0]["examples"] == ["a0.json: cat [20.0, 10.0, 20.0, 20.0]"]


def test_points_of_text(tmp_path):
    for number, points in enumerate(
        [[["1", "2"], ["30", "2"], ["6", "27"]], [[1, 2], [30, 2], [6, 27]]]
    ):
        write_image(tmp_path / "in" / f"a{number}.png", number)
        shapes = [shape("cat", "polygon", points)]
        write_labelme(tmp_path / "in" / f"a{number}.json", shapes, f"a{number}.png")
    report = import_dataset("labelme", tmp_path / "in", tmp_path / "out", split=[1])
    assert whats(report.problems.as_json()) == {
        "shapes whose points aren't pairs of numbers: left out": 1
    }
