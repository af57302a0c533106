"""From COCO to VOC, YOLO and LabelMe and back: every box to half a pixel, every flag and name."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.data.formats import FORMATS, Dataset, Object, Options, Picture, Problems, read
from ms_detr.data.formats.runs import box_of, encode

from .support import SIZE, write_image

WIDTH, HEIGHT = SIZE
NAMES = ("cat", "a dog", "Käfer <&>")
CLASSES = {name: number for number, name in enumerate(sorted(NAMES), 1)}


@st.composite
def boxes(draw):
    """Boxes in the image, on whole pixels or not."""
    numbers = draw(st.sampled_from([st.integers, st.floats]))
    across = sorted(draw(st.tuples(*[numbers(0, WIDTH)] * 2)))
    down = sorted(draw(st.tuples(*[numbers(0, HEIGHT)] * 2)))
    box = across[0], down[0], across[1] - across[0], down[1] - down[0]
    return box if min(box[2:]) >= 0.01 else (float(across[0]) / 2, float(down[0]) / 2, 1.0, 1.0)


plain = st.builds(
    Object,
    st.sampled_from(NAMES),
    boxes(),
    crowd=st.booleans(),
    flags=st.fixed_dictionaries({}, optional={"truncated": st.integers(0, 1)}),
)


def polygon(name, box):
    x, y, w, h = box
    return Object(name, box, [[x, y, x + w, y, x + w, y + h, x + w / 3, y + h / 2]])


outlined = st.builds(polygon, st.sampled_from(NAMES), boxes())


def returned(form, objects, split="val"):
    """The objects after they were written and read, and what was told."""
    with tempfile.TemporaryDirectory() as name:
        folder, problems = Path(name), Problems()
        picture = Picture(folder / "x", "a b.png", split, WIDTH, HEIGHT, objects)
        FORMATS[form].write(Dataset(CLASSES, [picture]), folder, problems)
        write_image(folder / FORMATS[form].place(picture))
        again = read(folder, FORMATS[form], Options(), problems)
        (picture,) = again.pictures
        assert (picture.name, picture.split) == ("a b.png", split)
        return picture.objects, problems


def check_boxes(found, objects):
    assert [item.category for item in found] == [item.category for item in objects]
    for item, expected in zip(found, objects, strict=True):
        sides = [(x, y, x + w, y + h) for x, y, w, h in (item.box, expected.box)]
        assert np.abs(np.subtract(*sides)).max() < 0.01  # half a pixel would do


@pytest.mark.parametrize("form", ["coco", "voc", "labelme"])
@given(objects=st.lists(plain, min_size=1, max_size=4))
@settings(max_examples=25)
def test_boxes_and_flags(form, objects):
    found, _ = returned(form, objects)
    check_boxes(found, objects)
    assert [item.crowd for item in found] == [item.crowd for item in objects]
    for item, expected in zip(found, objects, strict=True):
        assert item.flags.get("truncated", 0) == expected.flags.get("truncated", 0)


@given(objects=st.lists(plain, min_size=1, max_size=4))
@settings(max_examples=25)
def test_yolo_has_no_crowds(objects):
    kept = [item for item in objects if not item.crowd]
    if not kept:
        return
    with_room = [item for item in objects if item.crowd][: len(kept)]
    found, problems = returned("yolo", kept + with_room)
    check_boxes(found, kept)
    assert problems.lost["objects"] == len(with_room)


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
@given(objects=st.lists(outlined, min_size=1, max_size=4))
@settings(max_examples=25)
def test_polygons(form, objects):
    found, problems = returned(form, objects)
    check_boxes(found, objects)
    assert not problems
    for item, expected in zip(found, objects, strict=True):
        assert item.segmentation == [pytest.approx(expected.segmentation[0], abs=1e-3)]


@given(
    objects=st.lists(st.one_of(plain, outlined), min_size=1, max_size=4),
    form=st.sampled_from(["voc", "yolo"]),
)
@settings(max_examples=25)
def test_forms_without_a_place_for_it_keep_the_box_and_say_so(form, objects):
    objects = [Object(item.category, item.box, item.segmentation) for item in objects]
    found, problems = returned(form, objects)
    check_boxes(found, objects)
    lost = sum(a.segmentation is None for a in found) - sum(a.segmentation is None for a in objects)
    lines = "".join(problems.lines())
    assert ("only the box is kept" in lines) == (lost > 0)


@given(seed=st.integers(0, 1000), split=st.sampled_from(["train", "val", "test"]))
@settings(max_examples=25)
def test_masks_in_labelme(seed, split):
    rng = np.random.default_rng(seed)
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    y, x = rng.integers(0, HEIGHT - 9), rng.integers(0, WIDTH - 9)
    bitmap[y : y + 9, x : x + 9] = rng.random((9, 9)) > 0.5
    runs = encode(bitmap)
    objects = [Object("cat", box_of(runs), runs)]
    found, problems = returned("labelme", objects, split)
    assert found[0].segmentation == runs and found[0].box == objects[0].box and not problems


@pytest.mark.parametrize("form", ["yolo", "labelme"])
def test_a_box_that_is_not_its_polygons_is_kept(form):
    """Boxes of whole objects, of which a part is seen."""
    item = Object("cat", (5.0, 5.0, 40.0, 30.0), [[5.0, 5.0, 20.0, 5.0, 20.0, 30.0]])
    found, problems = returned(form, [item])
    check_boxes(found, [item])
    assert "only the box is kept" in problems.lines()[0]


def test_boxes_beyond_the_image_are_cut(tmp_path):
    """In VOC a number below 1 would say that all boxes are counted from 0."""
    item = Object("cat", (-9.0, 5.0, 40.0, 90.0))
    other = Object("cat", (3.0, 5.0, 10.0, 20.0))
    for form in ("voc", "yolo", "labelme"):
        found, problems = returned(form, [item, other])
        check_boxes(found, [Object("cat", (0.0, 5.0, 31.0, HEIGHT - 5.0)), other])
        assert [line.partition(":")[0] for line in problems.lines()] == [
            "1 boxes that leave their image"
        ]
