"""YOLO's files: lines, classes, where labels lie, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from ms_detr.data.formats import Options, import_dataset
from ms_detr.errors import DataError

from .support import read_split, voc_object, whats, write_image, write_text, write_xml

# Lists of ten of the list before: z has 10 ** 6 words in it.
BOMB = "a: &a [b, b, b, b, b, b, b, b, b, b]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("avwxy", "vwxyz", strict=True)
)
CONFIG = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def write_yolo(folder, labels, config=CONFIG):
    """Images a0, a1, ... with these files of labels (None: without), the last one in val."""
    write_text(folder / "data.yaml", config)
    for number, text in enumerate(labels):
        split = "val" if number == len(labels) - 1 else "train"
        write_image(folder / "images" / split / f"a{number}.png", number, (200, 100))
        if text is not None:
            write_text(folder / "labels" / split / f"a{number}.txt", text)


def imported(folder, tmp_path):
    return import_dataset("yolo", folder, tmp_path / "out"), tmp_path / "out"


def test_boxes_and_polygons(tmp_path):
    """In 200 x 100 pixels: centre and size; corners. An image without labels has no objects."""
    lines = "1 0.25 0.5 0.1 0.2\n\n0 .1 .1 .2 .1 .2 .5\n0.0 0.5 0.5 1 1\n"
    write_yolo(tmp_path / "yolo", [lines, None, ""])
    report, out = imported(tmp_path / "yolo", tmp_path)
    assert whats(report.problems.as_json()) == {
        "images without a file of labels: taken to be without objects": 1
    }
    assert report.classes == {"cat": 0, "dog": 1}
    found = read_split(out, "train")
    assert found["a1.png"] == [] and read_split(out, "val") == {"a2.png": []}
    assert [name for name, _, _ in found["a0.png"]] == ["dog", "cat", "cat"]
    boxes = [[40, 40, 20, 20], [20, 10, 20, 40], [0, 0, 200, 100]]
    for (_, box, _), expected in zip(found["a0.png"], boxes, strict=True):
        assert box == pytest.approx(expected, abs=1e-3)
    content = json.loads((out / "annotations" / "train.json").read_text())["annotations"]
    assert content[1]["segmentation"] == [pytest.approx([20, 10, 40, 10, 40, 50])]
    assert "segmentation" not in content[0] and content[1]["category_id"] == 0
    assert content[1]["area"] == pytest.approx(400, rel=0.1)


@pytest.mark.parametrize(
    "config",
    [
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "path: ../elsewhere\ntrain: [images/train]\nval: images/val\nnames: [cat, dog]\nnc: 2\n",
        "train: ../images/train\nval: ../images/val\nnames: [cat, dog]\n",  # Roboflow's
        "train: train.txt\nval: val.txt\nnames: [cat, dog]\n",
        CONFIG + "test: images/test\n",
    ],
)
def test_configs(tmp_path, config):
    folder = tmp_path / "a folder"
    write_yolo(folder, ["0 0.5 0.5 0.1 0.2", "1 0.5 0.5 0.1 0.2"], config)
    write_text(folder / "train.txt", "./images/train/a0.png\n")
    write_text(folder / "val.txt", "images/val/a1.png\n\n")
    report, out = imported(folder, tmp_path)
    assert report.images == {"train": 1, "val": 1} and len(report.problems.lines()) == (
        "test" in config
    )
    assert [name for name, _, _ in read_split(out, "val")["a1.png"]] == ["dog"]


def test_labels_beside_images(tmp_path):
    write_text(tmp_path / "yolo" / "d.yml", "train: a\nval: b\nnc: 1\n")
    for split in "ab":
        write_image(tmp_path / "yolo" / split / "x.jpg", size=(10, 10))
        write_text(tmp_path / "yolo" / split / "x.txt", "0 .5 .5 .2 .2")
    report, out = imported(tmp_path / "yolo", tmp_path)
    assert report.classes == {"class_0": 0}
    assert read_split(out, "val") == {"x.jpg": [("class_0", pytest.approx([4, 4, 2, 2]), 0)]}


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    good = "0 .5 .5 .2 .2\n" * 20
    bad = [
        "0 .5 .5 .2", "0 .5 .5 .2 .2 .9", "0 .1 .1 .2 .2 .3 .3 .4", "2 .5 .5 .2 .2",
        "-1 .5 .5 .2 .2", "0.5 .5 .5 .2 .2", "cat .5 .5 .2 .2", "0 nan .5 .2 .2", "0 .5 .5 0 .2",
        "0 1.4 .5 .2 .2", "0 90 50 20 20", "0 .5 .5 1.2 .2", "0 .5 .5 .6 .5 1.2 .9",
    ]  # fmt: skip
    write_yolo(tmp_path / "yolo", [good, "\n".join(bad), good])
    write_text(tmp_path / "yolo" / "labels" / "train" / "z.txt", good)
    write_text(tmp_path / "yolo" / "labels" / "train" / "classes.txt", "cat\ndog")
    write_image(tmp_path / "yolo" / "images" / "train" / "u.png", 7)
    (tmp_path / "yolo" / "labels" / "train" / "u.txt").write_bytes(b"\xff\xfe\x00")
    report, out = imported(tmp_path / "yolo", tmp_path)
    assert whats(report.problems.as_json()) == {
        "label files without an image: passed over": 1,
        "lines of neither a box (5 numbers) nor a polygon (7, 9, ...): left out": 2,
        "lines with a score, as predictions have: left out": 1,
        "objects whose class data.yaml has no name for: left out": 3,
        "lines that aren't numbers: left out": 2,
        "boxes without a size in their image, in fractions of it: left out": 3,
        "boxes that leave their image: cut at its edge": 1,
        "polygons that leave their image: cut at its edge": 1,
        "label files that can't be read: without objects": 1,
    }
    boxes = [box for _, box, _ in read_split(out, "train")["a1.png"]]
    assert boxes == [pytest.approx([0, 40, 200, 20]), pytest.approx([100, 50, 100, 40])]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: [", "is no YAML"),
        ("- train", "data.yaml holds no keys"),
        ("train: images/train\nnames: 5\n", "neither a list nor a mapping"),
        ("train: images/train\nnames: {a: b}\n", "not a number and its name"),
        ("train: images/train\nnames: [[a]]\n", "not a number and its name"),
        ("train: images/nowhere\nnames: [a]\n", "none of its train, val and test has images"),
        ("train: {a: b}\nnames: [a]\n", "neither a folder nor a file"),
        ("train: images/train\nnames: [a]\nkpt_shape: [17, 3]\n", "is of keypoints"),
        (f"{BOMB}train: images/train\nnames: *z\n", "names has 0: .*, not a number and its name"),
        (f"{BOMB}train: *z\nnames: [a]\n", "train has .*, neither a folder nor a file"),
        (f"train: images/train\nnames: [{'9' * 5000}]\n", "is no YAML: Exceeds the limit"),
        ("train: !!timestamp x\nnames: [a]\n", "that aren't there: x"),
        ("train: !!bool x\nnames: [a]\n", "that aren't there: x"),
        ("train: !!python/object/apply:os.system ['false']\nnames: [a]\n", "is no YAML"),
    ],
)
def test_wrong_configs(tmp_path, config, message):
    write_yolo(tmp_path / "yolo", ["", ""], config)
    with pytest.raises(DataError, match=message) as error:
        imported(tmp_path / "yolo", tmp_path)
    assert not (tmp_path / "out").exists() and len(str(error.value)) < 1000


def test_turned_images(tmp_path):
    """Fractions are of the image as it is looked at."""
    from PIL import Image

    write_yolo(tmp_path / "yolo", ["0 0.25 0.5 0.5 1", ""])
    path = tmp_path / "yolo" / "images" / "train" / "a0.png"
    image = Image.open(path)
    image.load()
    tags = Image.Exif()
    tags[0x112] = 6
    image.save(path, exif=tags)
    _, out = imported(tmp_path / "yolo", tmp_path)
    assert read_split(out, "train")["a0.png"] == [("cat", pytest.approx([0, 0, 50, 200]), 0)]


def test_labels_are_written_where_they_are_looked_for(tmp_path):
    """The last folder called images becomes labels, also one of the source."""
    folder = tmp_path / "in"
    for number, name in enumerate(["images/x.png", "images/images/x.png", "y.png", "labels/x.png"]):
        write_xml(folder / "train" / name.replace(".png", ".xml"), voc_object("cat", (1, 1, 9, 9)))
        write_image(folder / "train" / name, number)
    import_dataset("voc", folder, tmp_path / "yolo", to="yolo", split=[0.5])
    images = sorted((tmp_path / "yolo").rglob("*.png"))
    for image in images:
        before, after = image.as_posix().rsplit("/images/", 1)
        assert Path(f"{before}/labels/{after}").with_suffix(".txt").read_text().startswith("0 ")
    assert len(images) == 4
    report, _ = imported(tmp_path / "yolo", tmp_path)
    assert sum(report.objects.values()) == 4 and not report.problems


def test_labels_that_lie_elsewhere(tmp_path):
    write_yolo(tmp_path / "yolo", [None, None])
    write_text(tmp_path / "yolo" / "annotations" / "a0.txt", "0 .5 .5 .2 .2")
    with pytest.raises(DataError, match="none of its 2 images .*/labels/train/a0.txt"):
        imported(tmp_path / "yolo", tmp_path)


def test_a_folder_that_is_train_and_val(tmp_path):
    """All images are in one split then, and are divided, each of them once."""
    folder = tmp_path / "yolo"
    write_yolo(folder, ["0 .5 .5 .2 .2"] * 10, "train: images\nval: images\nnames: [cat]\n")
    report, _ = imported(folder, tmp_path)
    assert report.images == {"train": 8, "val": 2} and report.made_splits
    assert whats(report.problems.as_json()) == {
        "images of two splits: taken for val, not train": 10
    }


def test_links_to_images_of_another_split(tmp_path):
    folder = tmp_path / "yolo"
    write_yolo(folder, ["0 .5 .5 .2 .2"] * 3, CONFIG + "test: images/test\n")
    for split, name in (("train", "z.png"), ("test", "y.png")):
        (folder / "images" / split).mkdir(exist_ok=True)
        (folder / "images" / split / name).symlink_to(folder / "images" / "val" / "a2.png")
    write_image(folder / "images" / "test" / "t.png", 9)
    (folder / "images" / "train" / "twice.png").symlink_to(folder / "images" / "train" / "a0.png")
    report, out = imported(folder, tmp_path)
    assert report.images == {"train": 2, "val": 1, "test": 1}
    found = whats(report.problems.as_json())
    assert found["images of two splits: taken for val, not train"] == 1
    assert found["images of two splits: taken for val, not test"] == 1
    assert found["images that are listed twice: taken once, as listed first"] == 1
    assert [*read_split(out, "val")] == ["a2.png"]


def test_lists_of_images_of_one_name(tmp_path):
    """They are told apart by their folders below the one that has them all."""
    folder = tmp_path / "yolo"
    write_text(folder / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    write_text(folder / "train.txt", "./images/a/x.png\nimages/b/x.png\n")
    write_text(folder / "val.txt", "images/c/x.png\n")
    for number, name in enumerate("abc"):
        write_image(folder / "images" / name / "x.png", number)
        write_text(folder / "labels" / name / "x.txt", "0 .5 .5 .2 .2")
    report, out = imported(folder, tmp_path)
    assert {*read_split(out, "train")} == {"a/x.png", "b/x.png"} and not report.problems
    assert {*read_split(out, "val")} == {"x.png"}


def test_names_are_as_they_stand_there(tmp_path):
    """YAML would make False of no, 8 of 010, 45000 of 12:30:00 and 1.5 of 1.50."""
    names = ["no", "Yes", "1.50", "010", "12:30:00", "2024-01-02", "7"]
    config = f"train: images\\train\nval: images\\val\nnames: [{', '.join(names)}]\n"
    write_yolo(tmp_path / "yolo", ["0 .5 .5 .2 .2\n", ""], config)
    report, out = imported(tmp_path / "yolo", tmp_path)
    assert report.classes == {name: number for number, name in enumerate(names)}
    assert [name for name, _, _ in read_split(out, "train")["a0.png"]] == ["no"]


def test_flags_that_yolo_lacks_are_told(tmp_path):
    """A difficult object is a crowd unless it is kept; truncated is told, and the box stays."""
    write_image(tmp_path / "voc" / "a.jpg")
    flags = ("<truncated>1</truncated>", "<difficult>1</difficult>", "")
    objects = "".join(voc_object("cat", (5, 5, 9 + k, 9), each) for k, each in enumerate(flags))
    write_xml(tmp_path / "voc" / "a.xml", objects, filename="a.jpg")
    lacks = "{}, which YOLO has no place for: left out"
    for difficult, lines, told in (
        ("crowd", 2, {"crowds", "flags truncated"}),
        ("keep", 3, {"flags difficult", "flags truncated"}),
    ):
        made = import_dataset(
            "voc", tmp_path / "voc", tmp_path / difficult, options=Options(difficult=difficult),
            to="yolo", split=[1],
        )  # fmt: skip
        assert {each["what"] for each in made.problems.as_json()} == {*map(lacks.format, told)}
        (label,) = (tmp_path / difficult / "labels").rglob("a.txt")
        assert len(label.read_text().splitlines()) == lines
