"""The parts of a demo image: outlines, masks, textures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation, binary_erosion

from ms_detr.data.demo_shapes import (
    SHAPES,
    TEXTURES,
    background,
    extent,
    outline,
    paint,
    rasterize,
    run_lengths,
)

SIZE = 64
masks = arrays(bool, (7, 5)).filter(lambda mask: mask.any())


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("ellipse", np.pi / 4),
        ("rectangle", 1),
        ("triangle", 1 / 2),
        ("star", 10 * 0.5 * 0.5 * 0.21 * np.sin(np.pi / 5)),
        ("plus", 5 / 9),
        ("ring", np.pi * (0.5**2 - 0.26**2)),
    ],
)
def test_area_of_a_shape(shape: str, share: float):
    mask = rasterize(outline(shape, (64.3, 63.8), 90, 70, 0.4, 128), 128)
    assert mask.sum() == pytest.approx(share * 90 * 70, rel=0.02)


def test_every_shape_was_measured():
    assert len(SHAPES) == 6 and len(set(SHAPES)) == 6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(40))
def test_mask_is_the_shape_cut_at_the_border(shape, seed):
    """Against another library's point-in-polygon test, one pixel of the edge aside.

    As scenes draw shapes. Parts that the border separates stay joined along it, by a pixel or two.
    """
    rng = np.random.default_rng(seed)
    width, aspect, angle = rng.uniform(12, 60), rng.uniform(0.5, 1), rng.uniform(0, 6.3)
    center = rng.uniform(0.3 * width, SIZE - 0.3 * width, 2)
    polygons = outline(shape, center, width, aspect * width, angle, SIZE)
    for polygon in polygons:
        assert polygon.min() >= 0 and polygon.max() <= SIZE
    # On a canvas so large that nothing is cut.
    far = outline(shape, (center[0] + 200, center[1] + 200), width, aspect * width, angle, 500)
    centers = np.stack(np.meshgrid(*[np.arange(SIZE + 4) - 1.5] * 2), axis=-1).reshape(-1, 2)
    inside = [Outline(polygon - 200).contains_points(centers) for polygon in far]
    expected = np.logical_or.reduce(inside).reshape(SIZE + 4, SIZE + 4)
    if shape == "ring":  # the common cut of its halves belongs to neither of them
        expected = expected | np.logical_and(*[_thicker(i) for i in inside])
    mask = rasterize(polygons, SIZE)
    every = np.ones((3, 3), bool)
    least = binary_erosion(expected, every)[2:-2, 2:-2]
    most = binary_dilation(expected, every)[2:-2, 2:-2]
    wrong = (mask < least) | (mask > most)
    assert wrong.sum() <= 2


def _thicker(flat: np.ndarray) -> np.ndarray:
    return binary_dilation(flat.reshape(SIZE + 4, SIZE + 4), np.ones((3, 3), bool))


def test_shape_outside_the_image_has_no_polygons():
    assert outline("star", (-50, 10), 20, 20, 0, SIZE) == []
    assert not rasterize([], SIZE).any()


@given(masks)
def test_run_lengths_decode_to_the_mask(mask):
    height, width = mask.shape
    runs = {"size": [height, width], "counts": run_lengths(mask)}
    decoded = coco_mask.decode(coco_mask.frPyObjects(runs, height, width))
    assert (decoded == mask).all()


@given(masks)
def test_extent_is_the_tightest_box(mask):
    x, y, width, height = extent(mask)
    cells = [(row, column) for row in range(7) for column in range(5) if mask[row, column]]
    rows, columns = zip(*cells, strict=True)
    assert (x, y) == (min(columns), min(rows))
    assert (x + width - 1, y + height - 1) == (max(columns), max(rows))


@pytest.mark.parametrize("texture", TEXTURES)
def test_paint_fills_the_mask_and_nothing_else(texture: str):
    rng = np.random.default_rng(0)
    canvas = np.full((SIZE, SIZE, 3), -1.0, np.float32)
    mask = rasterize(outline("plus", (30, 30), 50, 40, 0.3, SIZE), SIZE)
    first, second = np.array([200.0, 100.0, 0.0]), np.array([0.0, 50.0, 255.0])
    paint(canvas, mask, texture, (first, second), 3.0, 0.7, rng)
    assert (canvas[~mask] == -1).all()
    # Every pixel lies on the line between the two colours.
    share = (canvas[mask][:, 0] - first[0]) / (second[0] - first[0])
    np.testing.assert_allclose(canvas[mask], first + share[:, None] * (second - first), atol=1e-3)
    if texture == "plain":
        assert (share == 0).all()
    elif texture == "noise":
        assert 0.4 < share.mean() < 0.6 and len(np.unique(share)) > 100
    else:
        assert set(np.unique(share)) == {0, 1} and 0.3 < share.mean() < 0.7


@pytest.mark.parametrize("texture", ["stripes", "checker"])
def test_stripes_run_in_one_direction_and_checkers_in_two(texture: str):
    canvas = np.zeros((16, 16, 3), np.float32)
    paint(
        canvas,
        np.ones((16, 16), bool),
        texture,
        (np.zeros(3), np.ones(3)),
        4.0,
        0.0,
        np.random.default_rng(0),
    )
    columns = np.arange(16) // 4 % 2
    rows = columns[:, None] if texture == "checker" else np.zeros((16, 1))
    np.testing.assert_array_equal(canvas[..., 0], (columns + rows) % 2)


def test_background_is_a_smooth_field_with_bars():
    field = background(SIZE, grid=3, bars=0, rng=np.random.default_rng(1))
    bars = background(SIZE, grid=3, bars=6, rng=np.random.default_rng(1))
    assert field.shape == (SIZE, SIZE, 3)
    assert field.min() >= 0 and field.max() <= 255
    steepest = 255 / (SIZE / 2)
    assert np.abs(np.diff(field, axis=0)).max() <= steepest
    assert np.abs(np.diff(field, axis=1)).max() <= steepest
    changed = (field != bars).any(axis=-1)
    assert 0.01 < changed.mean() < 0.4
