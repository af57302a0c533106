"""Numbers of `ms_detr.data.check`, against pycocotools, exact arithmetic, and by hand."""

import json
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ms_detr.config import load
from ms_detr.data import ResizeShortestEdge
from ms_detr.data.check import Kind, Limits, check_dataset, limits_of, write_mended
from ms_detr.data.check.polygons import CHUNK, crosses_itself

from .check_support import BOW_TIE, HEIGHT, LIMITS, WIDTH, Clean

POINT = st.tuples(st.integers(0, 8), st.integers(0, 8))


def crosses_exactly(points) -> bool:
    """Whether two edges have a point in common that is inside of both, and one side each."""
    edges = [*zip(points, [*points[1:], points[0]], strict=True)]
    for ((ax, ay), (bx, by)), ((cx, cy), (dx, dy)) in combinations(edges, 2):
        (ux, uy), (vx, vy) = (bx - ax, by - ay), (dx - cx, dy - cy)
        determinant = ux * vy - uy * vx
        if determinant == 0:
            continue
        # a + s u = c + t v
        s = Fraction((cx - ax) * vy - (cy - ay) * vx, determinant)
        t = Fraction((cx - ax) * uy - (cy - ay) * ux, determinant)
        if 0 < s < 1 and 0 < t < 1:
            return True
    return False


@given(st.lists(POINT, min_size=3, max_size=9))
@example([(0, 0), (4, 4), (4, 0), (0, 4)])
@example([(0, 0), (4, 0), (4, 0), (4, 4), (0, 4), (0, 0)])  # points that come twice
@example([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)])  # one touches an edge
@example([(0, 0), (4, 0), (2, 0), (6, 0), (3, 3)])  # along a line
def test_crossings_are_exact(points):
    assert crosses_itself(np.ravel(points)) == crosses_exactly(points)


@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_crossings_of_long_outlines(count):
    turns = np.arange(count) * 2 * np.pi / count
    outline = np.stack([100 + 90 * np.cos(turns), 100 + 90 * np.sin(turns)], 1)
    assert not crosses_itself(outline.ravel())
    for place in (1, count // 2, count - 2):
        swapped = outline.copy()
        swapped[[place, place + 1]] = swapped[[place + 1, place]]
        assert crosses_itself(swapped.ravel())


def test_a_mended_polygon_covers_the_pixels_that_it_did(tmp_path):
    data = Clean(tmp_path / "data")
    number = data.add_object(bbox=[5, 5, 20, 14.5], segmentation=[BOW_TIE])["id"]
    write_mended(check_dataset(data.write()), tmp_path / "mended")
    content = json.loads((tmp_path / "mended" / "annotations" / "train.json").read_text())
    (mended,) = [x for x in content["annotations"] if x["id"] == number]
    runs = coco_mask.frPyObjects([BOW_TIE], HEIGHT, WIDTH)[0]
    expected = coco_mask.decode(runs)
    assert expected.sum() > 50
    assert (coco_mask.decode(mended["segmentation"]) == expected).all()
    others = [x["segmentation"] for x in content["annotations"] if x["id"] != number]
    assert all(isinstance(segmentation, list) for segmentation in others)


def test_statistics_are_those_of_pycocotools(demo_dataset, capsys):
    checked = check_dataset(demo_dataset, limits=LIMITS)
    assert checked.groups == ()
    histograms = {histogram.title: histogram for histogram in checked.statistics.histograms}
    for name in ("train", "val"):
        coco = COCO(str(demo_dataset / "annotations" / f"{name}.json"))
        split = checked.statistics.splits[name]
        assert split.images == len(coco.getImgIds())
        assert split.objects == len(coco.getAnnIds(iscrowd=False))
        assert split.crowds == len(coco.getAnnIds(iscrowd=True)) > 0
        for category in coco.loadCats(coco.getCatIds()):
            ids = coco.getAnnIds(catIds=[category["id"]], iscrowd=False)
            assert split.by_class[category["name"]] == len(ids)
        counts = [len(coco.getAnnIds([i], iscrowd=False)) for i in coco.getImgIds()]
        assert split.most == max(counts) and split.empty == counts.count(0) > 0
        per_image = histograms["objects an image"]
        assert per_image.counts[name].tolist() == [
            counts.count(k) for k in range(len(per_image.edges) - 1)
        ]
        for size, low, high in (
            ("small", 0, 32**2),
            ("medium", 32**2, 96**2),
            ("large", 96**2, 1e9),
        ):
            boxes = [a["bbox"] for a in coco.loadAnns(coco.getAnnIds(iscrowd=False))]
            assert split.by_size[size] == sum(low <= w * h < high for _, _, w, h in boxes)
        sides = histograms["side of objects"]
        for low, high, count in zip(sides.edges, sides.edges[1:], sides.counts[name], strict=False):
            assert count == sum(low <= (w * h) ** 0.5 < high for _, _, w, h in boxes)
        assert sides.counts[name].sum() == len(boxes)


def test_sides_in_cells_of_levels(tmp_path):
    """Images of 60 x 40 become 1200 x 800: objects of 20 x 15 and 20 x 25 pixels, 20 times."""
    levels = check_dataset(Clean(tmp_path / "data").write()).statistics.levels
    sides = np.array([(20 * 15) ** 0.5, (20 * 25) ** 0.5] * 14) * 20
    for stride in (8, 16, 32, 64):
        cells = sides / stride
        bounds = ((0, 1), (1, 4), (4, 16), (16, 1e9))
        expected = [int(((low <= cells) & (cells < high)).sum()) for low, high in bounds]
        assert list(levels[stride]) == expected
    assert list(levels) == [8, 16, 32, 64] and list(levels[64]) == [0, 0, 28, 0]


def test_limits_of_configs(tmp_path):
    limits = limits_of(load("ms_detr/ms_detr_pp_r50_900q_12ep.py"), "pp")
    assert limits.queries == 900 and limits.strides == (8, 16, 32, 64)
    # 800 and 1333 of a photo, and of a panorama.
    found = limits.scales(np.array([[640, 480], [4000, 500], [640, 480]]))
    assert found == pytest.approx([800 / 480, 1333 / 4000, 800 / 480], rel=2e-3)
    demo = limits_of(load("demo/ms_detr.py"), "demo")
    assert demo.queries == 48 and demo.strides == (8, 16, 32)
    assert demo.scales(np.array([[240, 160]])).tolist() == [1.0]
    data = Clean(tmp_path / "data")
    for n in range(3):
        data.add_object(bbox=[5 + n, 22, 1.5, 1.9], segmentation=[
            [5 + n, 22, 6.5 + n, 22, 6.5 + n, 23.9]])  # fmt: skip
    assert check_dataset(data.write()).groups == ()  # of 38 pixels, in an image of 1200 x 800
    checked = check_dataset(data.root, limits=demo)
    assert checked.counts() == {Kind.SMALL_OBJECT: 3}
    few = Limits(queries=4, augmentations=[ResizeShortestEdge(80, 120)])
    counts = check_dataset(data.root, limits=few).counts()
    assert counts == {Kind.TOO_MANY_OBJECTS: 1, Kind.SMALL_OBJECT: 3}
