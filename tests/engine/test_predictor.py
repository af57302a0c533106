"""The Predictor: what is chosen, and large images in tiles, against plain references."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

import ms_detr
from ms_detr.data import DetrMapper, ImageError
from ms_detr.engine import tiles
from ms_detr.engine.choice import Choice, class_numbers
from ms_detr.engine.prediction import predicted
from ms_detr.engine.tiles import Tiling
from ms_detr.errors import ConfigError, MissingPackageError
from ms_detr.meta_arch import GeneralizedDETR, Usage
from tests.tiny_checkpoint import CLASSES, write_tiny


class Finder(GeneralizedDETR):
    """Finds every patch that isn't black; its value tells the class, its area the score."""

    def __init__(self, with_masks: bool = False):
        nn.Module.__init__(self)
        self.masks = nn.Identity() if with_masks else None
        self.postprocess = nn.Identity()
        self.postprocess.top_k = 100
        self.num_classes = 5
        self.set_usage(Usage(DetrMapper([], is_train=False), 3, ("a", "b", "c", "d", "e")))
        self.shapes: list[torch.Size] = []

    def forward(self, batched_inputs):
        assert len({x["image"].shape for x in batched_inputs}) == 1
        self.shapes.append(batched_inputs[0]["image"].shape)
        return [{"instances": self.found(x["image"][0].numpy())} for x in batched_inputs]

    def found(self, image: np.ndarray) -> Instances:
        patches, count = ndimage.label(image)
        places = ndimage.find_objects(patches)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in places]
        values = ndimage.maximum(image, patches, range(1, count + 1)) if count else []
        areas = [(patches == number).sum() for number in range(1, count + 1)]
        order = np.argsort([-area for area in areas], kind="stable")
        result = Instances(image.shape)
        result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order])
        result.scores = 0.31 + torch.tensor(areas, dtype=torch.float64)[order] / 1e5
        result.pred_classes = torch.tensor(np.array(values, dtype=np.int64)[order] // 50 - 1)
        if self.masks is not None:
            whole = [patches == 1 + number for number in order]
            whole = np.array(whole, dtype=bool).reshape(-1, *image.shape)
            result.pred_masks = torch.from_numpy(whole)
        return result


Rectangle = tuple[int, int, int, int, int]  # x1, y1, x2, y2, class


@st.composite
def scenes(draw) -> tuple[np.ndarray, list[Rectangle], int, float]:
    """An image with rectangles apart from each other, no larger than tiles promise; tiles."""
    size = draw(st.integers(24, 64))
    overlap = draw(st.sampled_from([0.25, 0.4, 0.5]))
    height, width = draw(st.integers(10, 200)), draw(st.integers(10, 200))
    most = max(1, int(0.75 * overlap * min(size, height, width)))
    image = np.zeros((height, width), np.uint8)
    rectangles = []
    for _ in range(draw(st.integers(0, 12))):
        w, h = draw(st.integers(1, most)), draw(st.integers(1, most))
        x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        if not image[max(y - 2, 0) : y + h + 2, max(x - 2, 0) : x + w + 2].any():
            label = draw(st.integers(0, 4))
            image[y : y + h, x : x + w] = 50 * (label + 1)
            rectangles.append((x, y, x + w, y + h, label))
    return np.repeat(image[:, :, None], 3, 2), rectangles, size, overlap


def as_rectangles(found: Instances) -> list[Rectangle]:
    boxes, labels = found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()
    return sorted((*map(int, box), label) for box, label in zip(boxes, labels, strict=True))


@given(scenes())
def test_tiles_find_what_there_is_once_and_in_its_place(scene):
    image, rectangles, size, overlap = scene
    found = ms_detr.Predictor(Finder(with_masks=True), tile=size, overlap=overlap)(image)[0]
    assert as_rectangles(found) == sorted(rectangles)
    assert found.image_size == image.shape[:2]
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    boxes = found.pred_boxes.tensor.int().tolist()
    for mask, (x1, y1, x2, y2) in zip(found.pred_masks, boxes, strict=True):
        expected = torch.zeros(image.shape[:2], dtype=torch.bool)
        expected[y1:y2, x1:x2] = True
        assert torch.equal(mask, expected)


@given(scenes())
def test_tiles_are_of_one_size_cover_the_image_and_share_enough(scene):
    image, _, size, overlap = scene
    height, width = image.shape[:2]
    found = Tiling(size, overlap).of(height, width)
    assert {tile.size for tile in found} == {(min(size, height), min(size, width))}
    seen = np.zeros((height, width), int)
    for tile in found:
        tile.cut(seen)[...] += 1
    assert seen.min() >= 1
    columns = sorted({(tile.x.begin, tile.x.end) for tile in found})
    for (_, end), (begin, _) in pairwise(columns):
        assert end - begin >= overlap * min(size, width)


def test_tiles_that_nobody_waits_for():
    """Without overlap 20,000 pixels are 100 tiles of 200, and 101 of 199."""
    assert len(Tiling(200, 0).of(20_000, 20_000)) == 10_000
    with pytest.raises(ImageError, match="a.png: 20000 x 20000 pixels are 10,201 tiles of 199"):
        Tiling(199, 0).of(20_000, 20_000, "a.png")


def test_an_image_that_fits_is_predicted_whole():
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:35, 10:50] = 100
    finder = Finder()
    (expected,) = ms_detr.Predictor(finder)(image)
    (found,) = ms_detr.Predictor(finder, tile=60)(image)
    assert as_rectangles(found) == as_rectangles(expected)
    assert finder.shapes == [(3, 40, 60)] * 2
    ms_detr.Predictor(finder, tile=59)(image)
    assert finder.shapes[2:] == [(3, 40, 59)]


def test_an_object_larger_than_a_tile_is_still_found():
    image = np.full((100, 100, 3), 50, np.uint8)
    assert len(ms_detr.Predictor(Finder(), tile=40)(image)[0]) >= 1


def test_masks_that_take_too_much_memory(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_MASKS", 100 * 50 * 50)
    image = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(ImageError, match=r"the image: 100 masks of 60 x 60 pixels take .* tiles"):
        ms_detr.Predictor(Finder(with_masks=True))(image)
    assert len(ms_detr.Predictor(Finder())(image)[0]) == 0
    image[::4, ::4] = 50  # 225 objects
    with pytest.raises(ImageError, match="225 masks of 60 x 60 pixels"):
        ms_detr.Predictor(Finder(with_masks=True), tile=50)(image)
    assert len(ms_detr.Predictor(Finder(with_masks=True), tile=50, top=9)(image)[0]) == 9


def objects(boxes, scores, labels) -> Instances:
    result = Instances((100, 100))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4))
    result.scores = torch.tensor(scores, dtype=torch.float64)
    result.pred_classes = torch.tensor(labels, dtype=torch.int64)
    return result


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([None, (1,), (0, 2), ()]),
    st.sampled_from([0.0, 0.33, 0.71, None]),
    st.sampled_from([None, 1, 3]),
)
def test_what_is_chosen(seed, threshold, classes, nms, top):
    rng = np.random.default_rng(seed)  # a crowd, of which hypothesis by itself makes few
    count = rng.integers(0, 16)
    corners, sizes = rng.integers(0, 12, (count, 2)), rng.integers(1, 20, (count, 2))
    boxes = np.hstack((corners, corners + sizes)).tolist()
    labels = rng.integers(0, 3, count).tolist()
    scores = (rng.permutation(16)[:count] / 16).tolist()
    expected: list[int] = []
    for k in sorted(range(count), key=lambda k: -scores[k]):
        if scores[k] < threshold or (classes is not None and labels[k] not in classes):
            continue
        rivals = [m for m in expected if labels[m] == labels[k]]
        if nms is None or all(iou(boxes[m], boxes[k]) <= nms for m in rivals):
            expected.append(k)
    expected = expected[:top]
    found = Choice(threshold, classes, nms, top).of(objects(boxes, scores, labels))
    assert found.scores.tolist() == [scores[k] for k in expected]
    assert found.pred_classes.tolist() == [labels[k] for k in expected]
    assert found.pred_boxes.tensor.tolist() == [list(map(float, boxes[k])) for k in expected]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.5}, "threshold is from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold is from 0 to 1, got nan"),
        ({"nms": -0.1}, "nms is from 0 to 1"),
        ({"top": 0}, "top is at least 1"),
        ({"tile": 0}, "a tile is of at least 1 pixel"),
        ({"tile": 9, "overlap": 1.0}, "tiles overlap by 0 to 0.9"),
        ({"classes": ["A"]}, r"no class 'A'; the nearest are a \(classes: a, b, c, d, e; or numbe"),
        ({"classes": [5]}, "no class '5' .*numbers from 0 to 4"),
        ({"classes": ["-1"]}, "no class '-1'"),
    ],
)
def test_what_makes_no_sense(values, message):
    with pytest.raises(ConfigError, match=message):
        ms_detr.Predictor(Finder(), **values)


def test_classes_by_name_and_number():
    assert class_numbers(["b", "0", "2"], ["a", "b", "0"], 3) == (1, 2, 2)
    assert class_numbers(["1"], [], 3) == (1,)
    with pytest.raises(ConfigError, match="the weights tell no names, only numbers from 0 to 2"):
        class_numbers(["a"], [], 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model_final.pth")


def test_a_checkpoint_is_enough(weights):
    """And the door `predict` finds the same."""
    noise = np.random.default_rng(0)
    sizes = [(50, 70), (70, 50), (50, 70), (1, 1)]
    images = [noise.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    predictor = ms_detr.Predictor(weights, threshold=0.0)
    assert predictor.class_names == CLASSES
    plain = ms_detr.predict(ms_detr.load_model(weights), images)
    for one, found in zip(plain, predictor(images), strict=True):
        assert torch.equal(one.scores, found.scores) and len(found) >= 18
        assert torch.equal(one.pred_boxes.tensor, found.pred_boxes.tensor)
    chosen = ms_detr.Predictor(predictor.model, threshold=0.0, classes=["star", 5], top=4)
    (found,), whole = chosen(images[0]), plain[0]
    wanted = whole[(whole.pred_classes == 3) | (whole.pred_classes == 5)][:4]
    torch.testing.assert_close(found.scores, wanted.scores)  # alone and in a batch
    assert set(found.pred_classes.tolist()) <= {3, 5}
    with pytest.raises(FileNotFoundError, match="there is no image file gone.png"):
        predictor(["gone.png"])
    with pytest.raises(TypeError, match="the image is a NoneType"):
        predictor(None)


def test_without_supervision(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    predictor = ms_detr.Predictor(Finder())
    with pytest.raises(MissingPackageError, match="pip install supervision"):
        predictor.to_supervision(predictor(np.zeros((9, 9, 3), np.uint8))[0])


@pytest.mark.parametrize("with_masks", [False, True])
def test_to_supervision(with_masks):
    pytest.importorskip("supervision")
    image = np.zeros((30, 40, 3), np.uint8)
    image[3:9, 4:20], image[20:25, 30:33] = 100, 250
    predictor = ms_detr.Predictor(Finder(with_masks))
    detections = predictor.to_supervision(predictor(image)[0])
    assert detections.xyxy.tolist() == [[4, 3, 20, 9], [30, 20, 33, 25]]
    assert detections.class_id.tolist() == [1, 4]
    assert detections["class_name"].tolist() == ["b", "e"]
    np.testing.assert_allclose(detections.confidence, [0.31096, 0.31015], atol=1e-8)
    if with_masks:
        assert np.array_equal(detections.mask.any(0), image[:, :, 0] > 0)
    nothing = predictor.to_supervision(predictor(np.zeros_like(image))[0])
    assert len(nothing) == 0


class OneInPadding(nn.Module):
    """Finds an object in the image, and others of which nothing is left in it."""

    def forward(self, inputs):
        boxes = torch.tensor([[9.0, 1, 9, 5], [1, 2, 3, 4], [0, 7, 5, 7]])
        found = Instances((7, 9), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8, 0.7]))
        return [{"instances": found} for _ in inputs]


def test_what_lies_in_padding_is_left_out():
    ((_, found),) = predicted(OneInPadding(), [(0, {"image": torch.zeros(3, 7, 9)})], 1)
    assert found.pred_boxes.tensor.tolist() == [[1, 2, 3, 4]]
    assert found.scores.tolist() == [pytest.approx(0.8)]
