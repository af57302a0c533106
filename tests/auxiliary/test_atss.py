import numpy as np
import pytest
import torch

from ms_detr.auxiliary import Pyramid
from ms_detr.auxiliary.anchors import AnchorGrid
from ms_detr.auxiliary.assigned import centerness
from ms_detr.auxiliary.atss import ATSSAssigner

from . import dense_reference as reference
from .scenes import make_objects, make_pyramid, make_targets, objects_of

GRID = AnchorGrid(sizes=(8.0,))


def assign(pyramid, targets, top_k=9):
    anchors = GRID(pyramid)
    return ATSSAssigner(top_k)(pyramid, anchors, targets.boxes * pyramid.scale, targets)


def expected_of(pyramid, targets, top_k=9):
    """Owners and ignored anchors of every image by the reference, and the closest decision."""
    shapes = [level.shape[-2:] for level in pyramid.maps]
    found = reference.anchors(shapes, pyramid.strides, (8.0,))
    owners, ignored, margins = [], [], []
    for size, (_, boxes) in zip(pyramid.sizes.tolist(), objects_of(pyramid, targets), strict=True):
        inside = [reference.is_inside(anchor, pyramid.strides, size) for anchor in found]
        own, margin = reference.atss(found, inside, boxes, top_k)
        owners.append([len(targets.valid[0]) if owner < 0 else owner for owner in own])
        ignored.append([not x for x in inside])
        margins.append(margin)
    return torch.tensor(owners), torch.tensor(ignored), min(margins)


def scene(seed):
    """Crowded images of a batch, of all sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(6, 150, (rng.integers(1, 4), 2))
    if seed % 4 == 1:
        sizes[:, rng.integers(2)] = 6  # one row or column on every level
    whole = bool(seed % 3 == 0)
    if whole:
        sizes = 2 ** rng.integers(3, 8, sizes.shape)  # so that fractions are exact
    strides = [int(4 * 2**i) for i in range(rng.integers(1, 4), 5)]
    counts = rng.choice([0, 1, 4, 25], len(sizes))
    boxes = [make_objects(rng, size, n, whole) for size, n in zip(sizes, counts, strict=True)]
    return make_pyramid(rng, sizes, strides), make_targets(rng, sizes, boxes)


def test_crowded_pyramids():
    close = positives = shared = 0
    for seed in range(200):
        pyramid, targets = scene(seed)
        owners, ignored, margin = expected_of(pyramid, targets)
        if margin < 1e-12:  # an IoU that is its threshold: rounding decides
            close += 1
            continue
        found = assign(pyramid, targets)
        assert torch.equal(found.objects, owners), seed
        assert torch.equal(found.ignored, ignored), seed
        positives += int((owners < len(targets.valid[0])).sum())
        shared += int(found.ignored.any())
    assert close < 10 and positives > 1000 and shared > 100


@pytest.mark.parametrize("top_k", [1, 2, 4, 16])
def test_other_numbers_of_candidates(top_k):
    for seed in range(25):
        pyramid, targets = scene(seed)
        owners, _, margin = expected_of(pyramid, targets, top_k)
        if margin > 1e-12:
            assert torch.equal(assign(pyramid, targets, top_k).objects, owners), seed


@pytest.mark.parametrize("top_k", [1, 2, 8, 9])
def test_only_near_columns_and_rows_need_a_look(top_k):
    rng = np.random.default_rng(top_k)
    centers = torch.from_numpy(rng.uniform(-30, 230, (3, 400, 2)))
    (level,) = make_pyramid(rng, [(200, 200)], (8,)).maps
    sizes = torch.tensor([[200.0, 200.0], [170.0, 8.0], [20.0, 100.0]], dtype=torch.float64)
    index, found = ATSSAssigner(top_k)._nearest(level, 8, sizes, centers)
    places = torch.stack((index % 25, index // 25), -1) * 8.0
    distances = (places - centers[:, :, None]).norm(dim=-1).where(found, torch.inf)
    cells = torch.cartesian_prod(torch.arange(25), torch.arange(25)) * 8.0
    for b, size in enumerate(sizes):
        all_distances = torch.cdist(centers[b], cells[(cells < size).all(-1)].double())
        count = min(top_k, all_distances.shape[1])
        torch.testing.assert_close(
            distances[b, :, :count], all_distances.sort().values[:, :count], rtol=0, atol=1e-9
        )
        assert not found[b, :, count:].any()


def test_single_precision_decides_alike():
    decided = 0
    for seed in range(1, 50, 3):
        pyramid, targets = scene(seed)
        owners, _, margin = expected_of(pyramid, targets)
        if margin > 1e-5:
            small = Pyramid(pyramid.maps, pyramid.strides, pyramid.sizes.float())
            assert torch.equal(assign(small, targets).objects, owners), seed
            decided += 1
    assert decided > 12


def single(box, size=(64, 64), strides=(8, 16)):
    """The anchors (column, row) of the finest level that one object gets."""
    rng = np.random.default_rng(0)
    pyramid = make_pyramid(rng, [size], strides)
    owner = assign(pyramid, make_targets(rng, [size], [np.array([box], float)])).objects[0]
    height, width = pyramid.maps[0].shape[-2:]
    cells = (owner[: height * width].view(height, width) == 0).nonzero()
    return [(int(x), int(y)) for y, x in cells]


def test_cells_by_hand():
    # Of nine anchors of its own size five have more than 0.754: 1 and, four times, 0.778.
    assert single((32, 32, 64, 64)) == [(4, 3), (3, 4), (4, 4), (5, 4), (4, 5)]
    assert single((32, 32, 3, 3)) == []  # its threshold is 1.011 times the best IoU
    assert single((32, 32, 3, 3), strides=(8, 16, 32, 64)) == [(4, 4)]
    assert single((35, 35, 3, 3), strides=(8, 16, 32, 64)) == []  # smaller than a cell
    assert single((33.5, 32, 3.01, 3), strides=(8, 16, 32, 64)) == []  # 0.005 from the centre
    assert single((33.5, 32, 3.04, 3), strides=(8, 16, 32, 64)) == [(4, 4)]  # 0.02
    assert single((200, 200, 80, 80)) == []  # outside the image


def test_a_single_anchor_has_no_threshold():
    assert single((2, 2, 60, 60), size=(4, 4), strides=(8,)) == []


def test_equal_boxes_go_to_the_first():
    rng = np.random.default_rng(0)
    pyramid = make_pyramid(rng, [(64, 64)], (8, 16))
    box = [32.0, 32.0, 60.0, 60.0]
    targets = make_targets(rng, [(64, 64)], [np.array([box, box])])
    found = assign(pyramid, targets).objects
    assert (found == 0).any() and not (found == 1).any()


def test_centerness_by_hand():
    points = torch.tensor([[10.0, 10.0], [4.0, 10.0], [4.0, 16.0]])
    boxes = torch.tensor([10.0, 10.0, 16.0, 16.0]).expand(3, 4)
    expected = [1.0, (2 / 14) ** 0.5, 2 / 14]
    assert centerness(points, boxes).tolist() == pytest.approx(expected)
