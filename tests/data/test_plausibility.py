"""Boxes and masks that can't be right are told from good ones, and from each other."""

import logging
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ms_detr.data import coco_dataset
from ms_detr.data.box_plausibility import box_findings
from ms_detr.data.demo_shapes import run_lengths
from ms_detr.data.mask_plausibility import extents, mask_findings
from ms_detr.data.plausibility import Finding, report
from ms_detr.data.segmentation import parse, to_bitmap

IMAGE_SIZES = np.array([(640, 480), (480, 640), (500, 500), (1920, 1080)], dtype=float)
IMAGES, OBJECTS = 60, 8


def good(seed: int = 0, largest: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, sizes of their images, and images, of objects that lie anywhere."""
    rng = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(IMAGES), OBJECTS)
    sizes = IMAGE_SIZES[rng.integers(0, 4, IMAGES)][image_of]
    extent = rng.uniform(0.02, largest, sizes.shape) * sizes
    corner = rng.uniform(0, 1, sizes.shape) * (sizes - extent)
    return np.concatenate((corner, extent), 1), sizes, image_of


def of_whole_objects(seed: int = 0):
    """The image cuts every object as much as it likes, on all sides."""
    boxes, sizes, image_of = good(seed)
    rng = np.random.default_rng(seed)
    boxes[:, :2] = rng.uniform(-0.45, 1, sizes.shape) * sizes
    boxes[:, :2] = np.clip(boxes[:, :2], -0.45 * boxes[:, 2:], sizes - 0.55 * boxes[:, 2:])
    return boxes, sizes, image_of


def of_people(seed: int = 0):
    """Tall ones, of whom the lower edge hides the legs."""
    boxes, sizes, image_of = good(seed)
    rng = np.random.default_rng(seed)
    boxes[:, 3] = rng.uniform(0.1, 0.9, len(boxes)) * sizes[:, 1]
    boxes[:, 2] = 0.4 * boxes[:, 3]
    boxes[:, 0] = rng.uniform(0, 1, len(boxes)) * (sizes[:, 0] - boxes[:, 2]).clip(0)
    boxes[:, 1] = rng.uniform(0, 1, len(boxes)) * (sizes[:, 1] - 0.55 * boxes[:, 3])
    return boxes, sizes, image_of


def single(seed: int = 0):
    """One large object an image, in its middle."""
    boxes, sizes, image_of = good(seed)
    boxes[:, 2:] = np.random.default_rng(seed).uniform(0.3, 1, sizes.shape) * sizes
    boxes[:, :2] = (sizes - boxes[:, 2:]) / 2
    return boxes[::OBJECTS], sizes[::OBJECTS], image_of[::OBJECTS]


def tiny(seed: int = 0):
    """Objects of a few pixels."""
    boxes, sizes, image_of = good(seed)
    rng = np.random.default_rng(seed)
    return (
        np.concatenate((boxes[:, :2].round(), rng.integers(1, 4, sizes.shape)), 1),
        sizes,
        image_of,
    )


def loose(seed: int = 0):
    """Some pixels beyond the object, and the image, on every side."""
    boxes, sizes, image_of = good(seed)
    margin = np.random.default_rng(seed).uniform(0, 6, boxes.shape)
    return boxes + margin * [-1, -1, 1, 1], sizes, image_of


def filling(seed: int = 0):
    """The whole image, counted from 1."""
    _, sizes, image_of = good(seed)
    return np.concatenate((np.ones_like(sizes), sizes), 1), sizes, image_of


FINE = [good, of_whole_objects, of_people, single, tiny, loose, filling]


@pytest.mark.parametrize("make", FINE)
@pytest.mark.parametrize("seed", range(5))
def test_good_boxes(make, seed):
    assert box_findings(*make(seed)) == []


@given(st.integers(0, 7))
def test_few_boxes(count):
    """Chance may make a few look strange, not wrong."""
    boxes, sizes, image_of = of_whole_objects(count)
    assert box_findings(boxes[:count], sizes[:count], image_of[:count]) == []


def corners(boxes, sizes):
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)


def centres(boxes, sizes):
    return np.concatenate((boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]), 1)


# What was done to the boxes -> what is said of them.
DAMAGES = {
    "corners": (corners, "look like x1 y1 x2 y2"),
    "corners, y first": (lambda b, s: corners(b, s)[:, [1, 0, 3, 2]], "look like y1 x1 y2 x2"),
    "centres": (centres, "look like x and y of the centre"),
    "y first": (lambda b, s: b[:, [1, 0, 3, 2]], "width and height seem to be swapped"),
    "fractions": (lambda b, s: b / np.tile(s, 2), "look like fractions"),
    "fractions, centres": (lambda b, s: centres(b, s) / np.tile(s, 2), "look like fractions"),
    "50 times": (lambda b, s: b * 50, "belong to larger images: .* reach to (50|49.[5-9]) times"),
    "twice": (lambda b, s: b * 2, "belong to larger images: .* reach to (2|1.99) times"),
    "1.4 times": (lambda b, s: b * 1.4, "belong to larger images: .* reach to 1.[34][0-9]* times"),
    "half": (lambda b, s: b / 2, "end before (49|50)% of the width"),
    "per cent": (lambda b, s: 100 * b / np.tile(s, 2), "or were per cent"),
}
damages = pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)


@damages
@pytest.mark.parametrize("seed", range(3))
def test_all_boxes_are_wrong(damage, message, seed):
    boxes, sizes, image_of = good(seed)
    (finding,) = box_findings(damage(boxes, sizes), sizes, image_of)
    assert re.search(message, finding.what), finding.what
    assert len(np.unique(finding.rows)) == len(finding.rows) == len(boxes)
    assert finding.certain == ("end before" not in finding.what)


@pytest.mark.parametrize("name", ["corners", "corners, y first", "fractions"])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5])
def test_some_boxes_are_wrong(name, share):
    """All that are named are wrong ones; not all wrong ones show it."""
    damage, message = DAMAGES[name]
    boxes, sizes, image_of = good(largest=0.3)
    wrong = np.random.default_rng(1).random(len(boxes)) < share
    boxes[wrong] = damage(boxes, sizes)[wrong]
    (finding,) = box_findings(boxes, sizes, image_of)
    assert finding.what.startswith(message)
    assert wrong[finding.rows].all() and len(finding.rows) >= 0.5 * wrong.sum()


@pytest.mark.parametrize("turn_images", [True, False])
def test_width_and_height_of_some_images_are_swapped(turn_images):
    boxes, sizes, image_of = good()
    wrong = image_of % 3 == 0
    if turn_images:
        sizes[wrong] = sizes[wrong][:, ::-1]
    else:
        boxes[wrong] = centres(boxes, sizes)[wrong]
    (finding,) = box_findings(boxes, sizes, image_of)
    assert ("swapped" if turn_images else "centre") in finding.what
    assert wrong[finding.rows].all() and len(finding.rows) >= 0.3 * wrong.sum()


def test_far_boxes_among_good_ones():
    boxes, sizes, image_of = good()
    boxes[[7, 9]] = [620, 470, 5000, 5000], [-300, 10, 310, 20]
    (finding,) = box_findings(boxes, sizes, image_of)
    assert finding.rows.tolist() == [7, 9] and "centre off the image" in finding.what


def test_boxes_without_a_sense_are_left_alone():
    """They are dropped, and that is said elsewhere."""
    boxes, sizes, image_of = good()
    boxes[:6] = [
        [np.nan] * 4,
        [np.inf, 0, 1, 1],
        [0, 0, 0, 5],
        [0, 0, 5, -1],
        [1e308] * 4,
        [5e9] * 4,
    ]
    assert box_findings(boxes, sizes, image_of) == []
    assert box_findings(boxes[:0], sizes[:0], image_of[:0]) == []


# ---------------------------------------------------------------------------------------- masks

HEIGHT, WIDTH = 60, 90


def ellipse(box) -> np.ndarray:
    x, y, w, h = box
    angles = np.linspace(0, 2 * np.pi, 17)[:-1]
    return np.stack((x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))), 1)


def small_boxes(seed: int = 0, count: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    extent = rng.uniform(6, 20, (count, 2))
    return np.concatenate((rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - extent), extent), 1)


def polygons(boxes, move=lambda points, box: points):
    return [[move(ellipse(box), box).ravel().astype(np.float32)] for box in boxes]


def runs(boxes, by_rows: bool = False):
    found = []
    for (polygon,) in polygons(boxes):
        bitmap = to_bitmap([polygon], HEIGHT, WIDTH)
        counts = run_lengths(bitmap.T) if by_rows else run_lengths(bitmap)
        found.append(parse({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH))
    return found


def look(segmentations, boxes):
    return mask_findings(segmentations, boxes, np.tile([WIDTH, HEIGHT], (len(boxes), 1)) * 1.0)


def test_extents_are_those_of_the_pixels():
    boxes = small_boxes()
    two = [[*polygon, polygon[0] + 3] for polygon in polygons(boxes)]
    mixed = [x for pair in zip(two, runs(boxes), strict=True) for x in pair]
    found = extents(mixed)
    for segmentation, (x1, y1, x2, y2) in zip(mixed, found, strict=True):
        if isinstance(segmentation, dict):
            rows, columns = np.nonzero(coco_mask.decode(segmentation))
            assert (x1, y1, x2, y2) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
        else:
            points = np.concatenate(segmentation).reshape(-1, 2)
            np.testing.assert_array_equal((x1, y1, x2, y2), [*points.min(0), *points.max(0)])


@pytest.mark.parametrize("seed", range(3))
def test_good_masks(seed):
    boxes = small_boxes(seed)
    assert look(polygons(boxes), boxes) == [] and look(runs(boxes), boxes) == []
    whole = boxes + np.array([-4, -4, 9, 9])  # boxes of objects that are hidden in part
    assert look(polygons(boxes), whole) == [] and look(runs(boxes), whole) == []
    assert look([], boxes[:0]) == []


MASK_DAMAGES = {
    "by rows": (lambda boxes: runs(boxes, by_rows=True), "counted along rows"),
    "y first": (lambda b: polygons(b, lambda p, _: p[:, ::-1]), "y came before x"),
    "fractions": (lambda b: polygons(b, lambda p, _: p / [WIDTH, HEIGHT]), "fractions of width"),
    "from box": (lambda b: polygons(b, lambda p, box: p - box[:2]), "from the corner of the box"),
    "elsewhere": (lambda b: polygons(np.roll(b, 3, 0)), "lie outside their boxes$"),
    "off": (
        lambda b: polygons(b, lambda p, _: p + np.array([WIDTH, 0])),
        "have no pixel in their images",
    ),
    "empty": (
        lambda boxes: [parse({"size": [60, 90], "counts": [5400]}, 60, 90) for _ in boxes],
        "have no pixel in their images",
    ),
}


@pytest.mark.parametrize(("damage", "message"), MASK_DAMAGES.values(), ids=MASK_DAMAGES)
@pytest.mark.parametrize("share", [0.05, 1])
def test_wrong_masks(damage, message, share):
    boxes = small_boxes(count=200)
    wrong = np.random.default_rng(1).random(len(boxes)) < share
    masks = [
        bad if w else fine for bad, fine, w in zip(damage(boxes), runs(boxes), wrong, strict=True)
    ]
    findings = look(masks, boxes)
    rows = np.concatenate([finding.rows for finding in findings])
    assert wrong[rows].all() and len(rows) >= 0.6 * wrong.sum()
    largest = max(findings, key=lambda finding: len(finding.rows))
    assert re.search(message, largest.what), largest.what


# --------------------------------------------------------------------------------- what is said


def test_warning_and_error(caplog):
    def tell(count, certain=True, trusted=False):
        finding = Finding(np.arange(count), "are odd", "Mend them.", certain=certain)
        report([finding], 10, lambda row: f"number {row}", "some.json", trusted)

    report([], 10, str, "some.json", False)
    assert caplog.messages == []
    tell(5)
    text = "some.json: 5 of 10 boxes are odd (number 0; number 1). Mend them."
    assert caplog.messages == [text]
    with pytest.raises(ValueError, match=r"6 of 10 boxes are odd .*trust_annotations=true"):
        tell(6)
    with pytest.raises(ValueError, match=r"all 10 boxes are odd"):
        tell(10)
    tell(10, trusted=True)
    tell(10, certain=False)
    assert caplog.messages[1:] == [text.replace("5 of 10", "all 10")] * 2


def test_a_file_of_corners(folder, caplog):
    """From the file to the message, and on, if the file is trusted."""
    folder.content["annotations"] = [
        {"id": i, "image_id": 7, "category_id": 4, "bbox": [10 + i, 8 + i, 16 + i, 14 + i]}
        for i in range(6)
    ]
    message = (
        r"annotations\.json: all 6 boxes look like x1 y1 x2 y2 instead of x y width height "
        r"\(annotation 1: \[11, 9, 17, 15\] in an image of 30 x 20; .*Write x1, y1, "
        r"x2 - x1, y2 - y1\. .*trust_annotations=true"
    )
    with pytest.raises(ValueError, match=message):
        folder.load()
    with caplog.at_level(logging.WARNING):
        records = coco_dataset(folder.name, folder.images, folder.json, trust_annotations=True)
    assert len(records[1]["annotations"]) == 6
    assert "all 6 boxes look like x1 y1 x2 y2" in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("masks", [False, True])
def test_the_demo_dataset_is_plausible(load_demo, caplog, split, masks):
    with caplog.at_level(logging.WARNING):
        load_demo(split, masks)
    assert caplog.messages == []


def test_masks_of_a_file(folder):
    for annotation, shift in zip(folder.content["annotations"], (0, 40, 40), strict=True):
        polygon = ellipse(annotation["bbox"]) + np.array([shift, 0])
        annotation["segmentation"] = [polygon.ravel().tolist()]
    folder.load()
    with pytest.raises(
        ValueError, match=r"2 of 3 masks have no pixel .*annotation 2: \[5, 6, 7, 8"
    ):
        coco_dataset(folder.name, folder.images, folder.json, masks=True)


@pytest.mark.parametrize("masks", [False, True])
def test_cost(folder, masks):
    """Less than a quarter of what loading takes without it."""
    boxes, sizes, image_of = (np.tile(part, (8, 1)[: part.ndim]) for part in good())
    folder.content["images"] = [
        {"id": i, "file_name": "a.png", "width": 2000, "height": 2000} for i in range(IMAGES)
    ]
    folder.content["annotations"] = [
        {"id": i, "image_id": int(image), "category_id": 4, "bbox": box, "iscrowd": 0}
        | {"segmentation": [[round(x, 2) for x in ellipse(box).ravel()]]}
        for i, (image, box) in enumerate(zip(image_of, boxes.tolist(), strict=True))
    ]
    folder.write()
    polygons = [[np.array(a["segmentation"][0])] for a in folder.content["annotations"]]
    loading, looking = [], []
    for _ in range(5):
        start = time.process_time()
        coco_dataset(folder.name, folder.images, folder.json, masks, check_images=False)
        loading.append(time.process_time() - start)
        start = time.process_time()
        box_findings(boxes, sizes, image_of)
        if masks:
            mask_findings(polygons, boxes, sizes)
        looking.append(time.process_time() - start)
    assert min(looking) < 0.25 * (min(loading) - min(looking))
