"""Polygons, run lengths and bitmaps: one set of pixels, also after an augmentation."""

import logging
import tracemalloc

import numpy as np
import pytest
from detectron2.data.transforms import ResizeTransform
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    TransformList,
    VFlipTransform,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ms_detr.data.demo_shapes import run_lengths
from ms_detr.data.records import segmentations_of
from ms_detr.data.segmentation import (
    compact,
    move_pixels,
    parse,
    to_bitmap,
    to_runs,
    transformed,
)
from ms_detr.errors import DataError

HEIGHT, WIDTH = SIZE = (40, 56)
SQUARE = [10.0, 5, 20, 5, 20, 15, 10, 15]
bitmaps = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def compressed(mask: np.ndarray) -> dict:
    """Pycocotools' RLE of a mask, as JSON holds it."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


@given(bitmaps, st.integers(1, 300))
def test_forms_of_pixels_mean_the_same(small, repeat):
    mask = small.repeat(repeat, axis=0)  # runs of several characters
    plain = {"size": list(mask.shape), "counts": run_lengths(mask)}
    for form in (mask, mask.astype(np.uint8), 255 * mask.astype(np.uint8), plain, compressed(mask)):
        good = parse(form, *mask.shape)
        np.testing.assert_array_equal(to_bitmap(good, *mask.shape), mask)
        assert to_runs(good, *mask.shape)["counts"] == compressed(mask)["counts"].encode()


@given(bitmaps, st.data())
def test_a_changed_string_is_an_error_or_another_mask(small, data):
    """Pycocotools decodes what is cut short without a word."""
    runs = compressed(small)
    counts = runs["counts"]
    for broken in (
        counts[: data.draw(st.integers(0, len(counts) - 1))],
        counts + data.draw(st.text(min_size=1)),
        data.draw(st.text()),
    ):
        try:
            good = parse({**runs, "counts": broken}, *small.shape)
        except ValueError:
            continue
        # An empty run more at the end, or by chance another mask.
        assert sum(run_lengths(to_bitmap(good, *small.shape))) == small.size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "has no segmentation"),
        ([], "has no segmentation"),
        ({}, "has no segmentation"),
        ("abc", "'abc', neither polygons nor RLE"),
        ([[1, 2, 3, 4]], "without a polygon of three points"),
        ([[], [1, 2]], "without a polygon of three points"),
        (SQUARE, "polygon 10.0, not an even count"),
        ([[1, 2, 3, 4, 5, 6, 7]], r"polygon \[1, 2, 3, 4, 5, 6, \.\.\.\], not an even count"),
        ([["1", 2, 3, 4, 5, 6]], "not an even count of numbers"),
        ([[True, False] * 3], "not an even count of numbers"),
        ([[None, 2, 3, 4, 5, 6]], "not an even count of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "not an even count of numbers"),
        ([[[1, 2], [3], [5, 6]]], "not an even count of numbers"),
        ([SQUARE, [1, 2, 3, 4, float("nan"), 6]], "coordinate that is not finite or far off"),
        ([[1, 2, 3, 4, float("inf"), 6]], "not finite"),
        ([[1, 2, 3, 4, -1e6, 6]], "far off the image"),
        ({"size": [40, 55], "counts": [2200]}, r"size \[40, 55\], but its image is \[40, 56\]"),
        ({"size": 40, "counts": [2240]}, "RLE of size 40"),
        ({"counts": [2240]}, "RLE of size None"),
        ({"size": SIZE}, "counts None, which are no run lengths"),
        ({"size": SIZE, "counts": [2240.0]}, "no run lengths"),
        ({"size": SIZE, "counts": ""}, "counts b'', which are no run lengths"),
        ({"size": SIZE, "counts": "käse"}, "no run lengths"),
        ({"size": SIZE, "counts": "oooooooooo0"}, "no run lengths"),
        ({"size": SIZE, "counts": [1, 2]}, r"\[1, 2\] add up to 3 pixels instead of 40 x 56"),
        ({"size": SIZE, "counts": [-1, 2241]}, "add up to 2240"),
        (np.zeros((56, 40), bool), r"bitmap of bool \(56, 40\), not of bool or uint8 \(40, 56\)"),
        (np.zeros(SIZE), "bitmap of float64"),
    ],
)
def test_what_is_wrong_is_said(value, message):
    with pytest.raises(ValueError, match=message):
        parse(value, *SIZE)
    if isinstance(value, list):  # as the file is read
        with pytest.raises(ValueError):
            parse(compact({"segmentation": value})["segmentation"], *SIZE)


def test_all_problems_of_a_file_in_one_message():
    annotations = [{"id": 1, "segmentation": [SQUARE]}]
    sizes = np.array([(WIDTH, HEIGHT)] * 5, float)
    assert isinstance(segmentations_of(annotations, sizes[:1], "some.json")[0], list)
    annotations += [{"id": number, "segmentation": [[1, 2]]} for number in (7, 8, 9, 10)]
    with pytest.raises(DataError, match=r"^some\.json: 4 of 5 annotations can't be") as error:
        segmentations_of(annotations, sizes, "some.json")
    text = str(error.value)
    assert "annotation 7 has" in text and "annotation 9 has" in text and " and 1 more. Mend" in text
    assert "annotation 10" not in text


def test_polygons_of_two_points_are_left_out_with_a_warning(caplog):
    annotations = [
        {"id": 3, "segmentation": [[1, 2], SQUARE, [1, 2, 3, 4]]},
        {"id": 4, "segmentation": [SQUARE, []]},
    ]
    with caplog.at_level(logging.WARNING):
        (kept,), _ = segmentations_of(annotations, np.array([(WIDTH, HEIGHT)] * 2), "some.json")
    assert kept.tolist() == SQUARE
    assert caplog.messages == [
        "some.json: left out polygons of one or two points of 2 annotations; the first is "
        "annotation 3."
    ]


def test_polygons_are_small():
    """What `coco_dataset` says."""
    lists = [list(map(float, range(66))) for _ in range(2000)]
    tracemalloc.start()
    kept = [compact({"segmentation": [points]})["segmentation"] for points in lists]
    used = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert used < 1000


# ----------------------------------------------------------------------- under augmentations


@st.composite
def polygons(draw) -> list[float]:
    """A convex polygon in the image."""
    angles = np.sort(
        draw(arrays(float, draw(st.integers(3, 8)), elements=st.floats(0, 6.28), unique=True))
    )
    x, y = draw(st.floats(12, 44)), draw(st.floats(12, 28))
    radius = draw(st.floats(2, 11))
    return np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), 1).ravel().tolist()


def inside(polygon: list[float], height: int, width: int) -> np.ndarray:
    """Pixels whose centres lie in a polygon, by counting the edges that a ray crosses."""
    points = np.array(polygon).reshape(-1, 2)
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            for (x1, y1), (x2, y2) in zip(points, np.roll(points, 1, 0), strict=True):
                if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
                    mask[row, column] ^= True
    return mask


def to_edge(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Distance (H, W) of every pixel's centre from the outline of a polygon (n, 2)."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    centers = np.stack((columns, rows), -1)
    nearest = np.full((height, width), np.inf)
    for start, end in zip(points, np.roll(points, 1, 0), strict=True):
        along = end - start
        share = ((centers - start) @ along / max(along @ along, 1e-12)).clip(0, 1)
        gap = np.linalg.norm(centers - (start + share[..., None] * along), axis=-1)
        nearest = np.minimum(nearest, gap)
    return nearest


@given(polygons())
def test_polygon_covers_the_centres_in_it(polygon):
    differs = to_bitmap(parse([polygon], *SIZE), *SIZE) != inside(polygon, *SIZE)
    assert to_edge(np.array(polygon).reshape(-1, 2), *SIZE)[differs].max(initial=0) < 0.75


def warp(form, transform, size=SIZE) -> np.ndarray:
    """As the mapper does it."""
    area = move_pixels(np.ones(size, np.uint8), transform)
    return transformed(parse(form, *size), transform, size, area)


# Transform, size after it, scale.
TRANSFORMS = {
    "nothing": (NoOpTransform(), SIZE, 1),
    "flip": (HFlipTransform(WIDTH), SIZE, 1),
    "upside down": (VFlipTransform(HEIGHT), SIZE, 1),
    "crop": (CropTransform(13, 9, 30, 20), (20, 30), 1),
    "larger": (ResizeTransform(*SIZE, 100, 140), (100, 140), 2.5),
    "smaller": (ResizeTransform(*SIZE, 22, 31), (22, 31), 0.55),
    "chain": (
        TransformList(
            [
                HFlipTransform(WIDTH),
                ResizeTransform(*SIZE, 80, 112),
                CropTransform(20, 11, 70, 60),
                PadTransform(0, 0, 10, 20),
            ]
        ),
        (80, 80),
        2,
    ),
}


@pytest.mark.parametrize(("transform", "after", "scale"), TRANSFORMS.values(), ids=TRANSFORMS)
@given(polygon=polygons())
def test_forms_move_alike(transform, after, scale, polygon):
    """But for pixels at the polygon's edge: pixels were drawn before, the polygon is after it."""
    drawn = to_bitmap(parse([polygon], *SIZE), *SIZE)
    masks = [warp(form, transform) for form in ([polygon], compressed(drawn), drawn, drawn == 1)]
    assert all(mask.shape == after and mask.dtype == np.bool_ for mask in masks)
    np.testing.assert_array_equal(masks[1], masks[2])
    np.testing.assert_array_equal(masks[1], masks[3])
    edge = transform.apply_coords(np.array(polygon).reshape(-1, 2))
    assert to_edge(edge, *after)[masks[0] != masks[1]].max(initial=0) < 0.75 + 0.75 * scale


@given(bitmaps)
def test_flips_and_crops_move_pixels_exactly(mask):
    height, width = mask.shape
    flipped = warp(compressed(mask), HFlipTransform(width), mask.shape)
    np.testing.assert_array_equal(flipped, mask[:, ::-1])
    cropped = warp(compressed(mask), CropTransform(0, 0, 1, height), mask.shape)
    np.testing.assert_array_equal(cropped, mask[:, :1])


def test_transforming_leaves_the_segmentation_alone():
    square = [np.array(SQUARE)]
    warp(square, HFlipTransform(WIDTH))
    assert square[0].tolist() == SQUARE


@pytest.mark.parametrize("label", [0, 255])  # what versions of Detectron2 pad masks with
def test_nothing_reaches_into_padding(label):
    pad = PadTransform(0, 0, 10, 20, WIDTH, HEIGHT, pad_value=128, seg_pad_value=label)
    off = [50.0, 30, 80, 30, 80, 80, 50, 80]  # leaves the image
    drawn = to_bitmap(parse([off], *SIZE), *SIZE)
    assert drawn.sum() == 6 * 10
    for form in ([off], compressed(drawn), drawn):
        mask = warp(form, pad)
        np.testing.assert_array_equal(mask[:HEIGHT, :WIDTH], drawn)
        assert mask.shape == (HEIGHT + 20, WIDTH + 10) and mask.sum() == drawn.sum()
