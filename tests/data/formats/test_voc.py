"""Pascal VOC: its conventions, its splits, and what is wrong with files of it."""

import json
import xml.etree.ElementTree

import pytest

from ms_detr.data.formats import Options, import_dataset
from ms_detr.errors import DataError

from .support import BCCD, read_split, voc_object, whats, write_image, write_text, write_xml


def write_voc(folder, objects, size=(64, 48)):
    """A dataset of images a0, a1, ... with these objects, the last one in val."""
    names = [f"a{number}" for number in range(len(objects))]
    for number, (name, inner) in enumerate(zip(names, objects, strict=True)):
        write_image(folder / "JPEGImages" / f"{name}.png", number)
        write_xml(folder / "Annotations" / f"{name}.xml", inner, size)
    sets = folder / "ImageSets" / "Main"
    write_text(sets / "train.txt", "\n".join(names[:-1]))
    write_text(sets / "val.txt", names[-1] + "\n")
    write_text(sets / "trainval.txt", "\n".join(names))
    write_text(sets / "cat_val.txt", f"{names[-1]} -1\n")


def imported(folder, tmp_path, **options):
    report = import_dataset("voc", folder, tmp_path / "out", options=Options(**options))
    return report, tmp_path / "out"


@pytest.mark.parametrize(
    ("convention", "corners", "box"),
    [
        ("auto", (1, 1, 10, 20), [0, 0, 10, 20]),
        ("auto", (64, 48, 64, 48), [63, 47, 1, 1]),
        ("auto", (2.5, 3, 10.25, 20), [1.5, 2, 8.75, 18]),
        ("auto", (0, 1, 10, 20), [0, 1, 10, 19]),  # a 0 can be no pixel of those from 1
        ("one-based", (3, 4, 10, 20), [2, 3, 8, 17]),
        ("one-based", (0, 1, 10, 20), [0, 0, 10, 20]),
        ("zero-based", (0, 4, 10, 20), [0, 4, 11, 17]),
        ("edges", (3, 4, 10, 20), [3, 4, 7, 16]),
    ],
)
def test_conventions(tmp_path, convention, corners, box):
    write_voc(tmp_path / "voc", [voc_object("cat", corners), ""])
    _, out = imported(tmp_path / "voc", tmp_path, voc_boxes=convention)
    assert read_split(out, "train")["a0.png"] == [("cat", box, 0)]


def test_one_box_that_begins_at_zero_tells_for_all(tmp_path):
    write_voc(
        tmp_path / "voc",
        [voc_object("cat", (3, 4, 10, 20)), voc_object("dog", (5, 0, 10, 20))],
    )
    report, out = imported(tmp_path / "voc", tmp_path)
    assert read_split(out, "train") == {"a0.png": [("cat", [3, 4, 7, 16], 0)]}
    (problem,) = report.problems.as_json()
    assert problem["what"].startswith("sign that boxes are edges from 0")
    assert problem["examples"] == ["a1.xml: dog 5 0 10 20"]


@pytest.mark.parametrize(
    ("difficult", "crowds"), [("crowd", [1, 0]), ("keep", [0, 0]), ("drop", [0])]
)
def test_difficult_and_truncated(tmp_path, difficult, crowds):
    hard = "<truncated>1</truncated><difficult>1</difficult>"
    objects = voc_object("cat", (3, 4, 10, 20), hard) + voc_object("cat", (3, 4, 11, 20))
    write_voc(tmp_path / "voc", [objects, ""])
    _, out = imported(tmp_path / "voc", tmp_path, difficult=difficult)
    written = json.loads((out / "annotations" / "train.json").read_text())["annotations"]
    assert [entry["iscrowd"] for entry in written] == crowds
    if difficult != "drop":
        assert (written[0]["difficult"], written[0]["truncated"]) == (1, 1)
        assert "truncated" not in written[1]


def test_splits_are_those_of_the_lists(tmp_path):
    write_voc(
        tmp_path / "voc", [voc_object("dog", (1, 1, 5, 5)), "", voc_object("cat", (2, 2, 5, 5))]
    )
    report, out = imported(tmp_path / "voc", tmp_path)
    assert report.images == {"train": 2, "val": 1} and not report.made_splits
    assert report.classes == {"cat": 1, "dog": 2}
    assert read_split(out, "train") == {"a0.png": [("dog", [0, 0, 5, 5], 0)], "a1.png": []}
    assert sorted(path.name for path in (out / "val").iterdir()) == ["a2.png"]


def test_most_images_in_no_split(tmp_path):
    """Two of five lie in folders of splits: not all that is there is meant to be left out."""
    for number, folder in enumerate(["train", "val", "a", "b", "c"]):
        write_xml(tmp_path / "in" / folder / "x.xml", voc_object("cat", (2, 2, 5, 5)))
        write_image(tmp_path / "in" / folder / "x.png", number)
    with pytest.raises(DataError, match=r"of 5 images 3 can't be used.*images in no split"):
        imported(tmp_path / "in", tmp_path)
    assert not (tmp_path / "out").exists()


def test_files_side_by_side_in_a_folder_a_split(tmp_path):
    """As Roboflow exports it; names have blanks and letters of any script."""
    for split, name in (("train", "ein Käfer"), ("valid", "虫 1.v2")):
        write_image(tmp_path / "voc" / split / f"{name}.jpg")
        write_xml(
            tmp_path / "voc" / split / f"{name}.xml", voc_object("Käfer", (1, 1, 5, 5)),
            filename="else.jpg",
        )  # fmt: skip
    report, out = imported(tmp_path / "voc", tmp_path)
    assert report.images == {"train": 1, "val": 1}
    assert read_split(out, "val") == {"虫 1.v2.jpg": [("Käfer", [0, 0, 5, 5], 0)]}


def test_an_image_that_only_its_tag_names(tmp_path):
    write_image(tmp_path / "voc" / "JPEGImages" / "b.png")
    write_xml(tmp_path / "voc" / "Annotations" / "1.xml", voc_object("cat", (1, 1, 5, 5)),
              filename="b.png")  # fmt: skip
    report, out = (
        import_dataset("voc", tmp_path / "voc", tmp_path / "out", split=[1]),
        tmp_path / "out",
    )
    assert read_split(out, "train") == {"b.png": [("cat", [0, 0, 5, 5], 0)]}
    assert not report.problems


BOMB = """<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><object><name>&c;</name></object></annotation>"""
FILE = """<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>"""


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    folder = tmp_path / "voc"
    good = "".join(voc_object("cat", (i + 1, 5, i + 9, 15)) for i in range(9))
    bad = (
        voc_object("cat", (50, 10, 70, 20)) + voc_object("cat", (70, 10, 90, 20))
        + voc_object("cat", (10, 10, 5, 20)) + voc_object("cat", ("x", 10, 5, 20))
        + voc_object("cat", ("nan", 10, 5, 20)) + voc_object("", (1, 1, 5, 20))
        + "<object><name>cat</name></object>" + voc_object("cat", (7, 7, 7, 7))
    )  # fmt: skip
    write_voc(folder, [good, bad, *[""] * 14, good], size=(64, 50))
    write_text(folder / "Annotations" / "a2.xml", BOMB)
    write_text(folder / "Annotations" / "a3.xml", FILE)
    write_text(folder / "Annotations" / "a4.xml", "<annotation><object>")
    (folder / "JPEGImages" / "a5.png").unlink()
    (folder / "JPEGImages" / "a6.png").write_bytes(b"no image")
    write_image(folder / "JPEGImages" / "z.png")
    write_image(folder / "JPEGImages" / "y.png")
    write_xml(folder / "Annotations" / "y.xml", "")
    report, out = imported(folder, tmp_path)
    assert whats(report.problems.as_json()) == {
        "XML files that can't be read: passed over": 3,
        "images in none of ImageSets/Main's lists: left out": 1,
        "images without an XML file that can be read: left out": 4,
        "names in ImageSets/Main without an XML file: passed over": 3,
        "images that are missing: left out": 1,
        "images that can't be read: left out": 1,
        "images of another size than their labels say: boxes stay as they are": 12,
        "boxes that leave their image: cut at its edge": 1,
        "boxes without a size in their image: left out": 2,
        "boxes that aren't four numbers: left out": 3,
        "objects without a name: left out": 1,
        "boxes of one pixel, as a click leaves them: kept": 1,
    }
    assert read_split(out, "train")["a1.png"] == [
        ("cat", [49, 9, 15, 11], 0), ("cat", [6, 6, 1, 1], 0)
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"XML files that can't be read.*; 1 images in none"):
        import_dataset("voc", folder, tmp_path / "strict", strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "voc"]


def test_mostly_wrong_is_an_error(tmp_path):
    write_voc(tmp_path / "voc", [voc_object("cat", (100, 100, 120, 120)) * 3, ""])
    with pytest.raises(
        DataError, match=r"of 3 objects 3 can't be used, so it probably is of anoth"
    ):
        imported(tmp_path / "voc", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not BCCD.is_dir(), reason="github.com/Shenggan/BCCD_Dataset isn't there")
def test_bccd(tmp_path):
    """Every box of a real dataset, against a reading of its own."""
    report, out = imported(BCCD, tmp_path)
    assert report.images == {"train": 205, "val": 87, "test": 72}
    assert report.classes == {"Platelets": 1, "RBC": 2, "WBC": 3}
    count = 0
    for split in report.images:
        for name, objects in read_split(out, split).items():
            tree = xml.etree.ElementTree.parse(BCCD / "Annotations" / name.replace(".jpg", ".xml"))
            expected = []
            for item in tree.getroot().iter("object"):
                left, top, right, bottom = (
                    int(item.find("bndbox").find(side).text)
                    for side in ("xmin", "ymin", "xmax", "ymax")
                )
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                expected.append((item.find("name").text, box, 0))
            assert objects == expected
            count += len(objects)
    assert count == 4888


@pytest.mark.parametrize("corners", [(0, 0, 0, 0), ("-inf", 3, "inf", 9), (0, 5, "nan", 9)])
def test_what_is_no_box_tells_no_convention(tmp_path, corners):
    objects = [
        voc_object("cat", (3, 4, 10, 20)),
        voc_object("cat", corners),
        voc_object("cat", (1, 1, 9, 9)),
    ]
    write_voc(tmp_path / "voc", objects)
    _, out = imported(tmp_path / "voc", tmp_path)
    assert read_split(out, "train")["a0.png"] == [("cat", [2, 3, 8, 17], 0)]


def test_two_files_of_one_name(tmp_path):
    write_voc(tmp_path / "voc", [voc_object("cat", (3, 4, 10, 20)), ""])
    write_xml(tmp_path / "voc" / "Annotations" / "a0.XML", voc_object("dog", (3, 4, 10, 20)))
    report, _ = imported(tmp_path / "voc", tmp_path)
    assert whats(report.problems.as_json()) == {
        "XML files of one name but for the suffix: the last one counts": 1
    }


def test_two_images_of_one_name(tmp_path):
    """The XML file names none of them: the first one is taken, and the other is told."""
    write_voc(tmp_path / "voc", [voc_object("cat", (3, 4, 10, 20)), ""])
    write_image(tmp_path / "voc" / "JPEGImages" / "a0.jpg")
    report, out = imported(tmp_path / "voc", tmp_path)
    assert whats(report.problems.as_json()) == {
        "images whose name another has but for the suffix: passed over": 1
    }
    (told,) = report.problems.as_json()
    files = {path.name for path in out.rglob("a0.*") if path.suffix != ".json"}
    assert len(files) == 1 and {"a0.jpg", "a0.png"} - files == {*map(base, told["examples"])}


def base(path):
    return path.rpartition("/")[2]
