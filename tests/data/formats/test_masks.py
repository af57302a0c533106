"""One mask image per object, in both layouts."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ms_detr.data.formats import Options, import_dataset, recognise
from ms_detr.errors import DataError

from .support import SIZE, read_split, whats, write_image, write_text


def write_mask(path, box, size=SIZE, value=255):
    """A mask of a rectangle x1, y1, x2, y2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    Image.fromarray(pixels).save(path)


def imported(tmp_path, **options):
    report = import_dataset(
        "masks", tmp_path / "in", tmp_path / "out", split=[1], options=Options(**options)
    )
    return report, json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())


def write_folders(folder):
    """A folder an image, as in the Data Science Bowl."""
    for number, boxes in enumerate([[(1, 2, 11, 22), (30, 30, 31, 40)], []]):
        name = f"id{number}"
        write_image(folder / name / "images" / f"{name}.png", number)
        (folder / name / "masks").mkdir()
        for i, box in enumerate(boxes):
            write_mask(folder / name / "masks" / f"{i}.png", box)


def test_a_folder_an_image(tmp_path):
    write_folders(tmp_path / "in")
    assert recognise(tmp_path / "in").name == "masks"
    report, content = imported(tmp_path)
    assert not report.problems and report.classes == {"object": 1}
    assert {image["file_name"] for image in content["images"]} == {"id0.png", "id1.png"}
    first, second = content["annotations"]
    assert (first["bbox"], first["area"]) == ([1, 2, 10, 20], 200)
    assert (second["bbox"], second["area"]) == ([30, 30, 1, 10], 10)
    expected = np.zeros((48, 64), np.uint8)
    expected[2:22, 1:11] = 1
    assert (coco_mask.decode(first["segmentation"]) == expected).all()


def test_the_class_is_asked_for(tmp_path):
    write_folders(tmp_path / "in")
    report, _ = imported(tmp_path, classes=["nucleus"])
    assert report.classes == {"nucleus": 1} and report.objects == {"train": 2}


def test_folders_of_images_and_masks_with_classes(tmp_path):
    folder = tmp_path / "in"
    for split in ("training", "test"):
        write_image(folder / split / "images" / "a.jpg", len(split))
        write_image(folder / split / "images" / "b.jpg", len(split) + 50)
        write_mask(folder / split / "masks" / "a" / "red cell" / "1.png", (1, 2, 11, 22), value=1)
        write_mask(folder / split / "masks" / "a" / "white" / "1.png", (0, 0, 64, 48))
        write_mask(folder / split / "masks" / "b" / "white" / "1.png", (5, 5, 6, 6), value=200)
    report = import_dataset("auto", folder, tmp_path / "out")
    assert report.classes == {"red cell": 1, "white": 2} and not report.problems
    assert report.images == {"train": 2, "test": 2} and report.objects == {"train": 3, "test": 3}


@pytest.mark.parametrize("mode", ["1", "P", "I;16", "RGBA"])
def test_modes(tmp_path, mode):
    write_folders(tmp_path / "in")
    path = tmp_path / "in" / "id0" / "masks" / "0.png"
    pixels = np.asarray(Image.open(path))
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(pixels // 255, "L").convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    _, content = imported(tmp_path)
    assert content["annotations"][0]["bbox"] == [1, 2, 10, 20]


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    folder = tmp_path / "in"
    write_folders(folder)
    masks = folder / "id0" / "masks"
    write_mask(masks / "2.png", (1, 2, 11, 22), size=(30, 30))
    write_mask(masks / "3.png", (1, 1, 1, 1))
    write_text(masks / "notes.txt", "no mask")
    write_image(folder / "id2" / "images" / "id2.png", 2)
    for name in "ab":
        write_image(folder / "id3" / "images" / f"{name}.png", 3)
    write_mask(folder / "id3" / "masks" / "0.png", (1, 2, 11, 22))
    for number in range(5, 9):
        write_image(folder / f"id{number}" / "images" / "x.png", number)
        write_mask(folder / f"id{number}" / "masks" / "0.png", (1, 2, 11, 22))
    report, content = imported(tmp_path)
    assert whats(report.problems.as_json()) == {
        "images without a folder of masks: left out": 1,
        "images that share one folder of masks: left out": 2,
        "masks that can't be used: left out": 2,
        "names of images that are changed": 3,
    }
    names = [image["file_name"] for image in content["images"]]
    assert names == ["id0.png", "id1.png", "x.png", "x-2.png", "x-3.png", "x-4.png"]


def test_masks_are_turned_upright_as_images_are(tmp_path):
    """By 180 degrees, which no size tells."""
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    pixels = np.zeros((48, 64), np.uint8)
    pixels[5:10, 2:8] = 255
    for name in ("a", "b"):
        write_image(tmp_path / "in" / name / "images" / f"{name}.png", ord(name))
        (tmp_path / "in" / name / "masks").mkdir()
        exif = upside_down if name == "a" else None
        Image.fromarray(pixels).save(tmp_path / "in" / name / "masks" / "0.png", exif=exif)
    Image.fromarray(pixels[:, :60]).save(tmp_path / "in" / "b" / "masks" / "1.png")
    report = import_dataset("masks", tmp_path / "in", tmp_path / "out", split=[1])
    found = read_split(tmp_path / "out", "train")
    assert found == {
        "a.png": [("object", [56, 38, 6, 5], 0)],
        "b.png": [("object", [2, 5, 6, 5], 0)],
    }
    (problem,) = report.problems.as_json()
    assert problem["examples"] == ["b/masks/1.png: it has (60, 48) pixels, the image (64, 48)"]


@pytest.mark.parametrize(
    ("values", "is_map"),
    [
        ([1, 2], True),
        ([3, 40, 41, 42], True),
        (np.array([256, 300], np.uint16), True),
        ([1], False),
        ([7], False),
        ([60, 128, 255], False),
        ([90, 254], False),
        (np.array([9_000, 65_535], np.uint16), False),
    ],
)
def test_a_map_that_numbers_objects_is_refused(tmp_path, values, is_map):
    """It was read as one object: those of the larger half of the numbers."""
    write_image(tmp_path / "in" / "a" / "images" / "a.png", 1)
    (tmp_path / "in" / "a" / "masks").mkdir()
    pixels = np.zeros(SIZE[::-1], getattr(values, "dtype", np.uint8))
    for row, value in enumerate(values):
        pixels[4 * row : 4 * row + 4, :8] = value
    Image.fromarray(pixels).save(tmp_path / "in" / "a" / "masks" / "0.png")
    if is_map:
        with pytest.raises(DataError, match="it numbers objects"):
            imported(tmp_path)
    else:
        _, content = imported(tmp_path)
        assert len(content["annotations"]) == 1
