"""Tests on padded squares: boxes and masks come back in pixels of the image files."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import CropTransform, HFlipTransform, PadTransform
from omegaconf import DictConfig
from PIL import Image

from ms_detr.data import DetrMapper, PadToSquare, ResizeShortestEdge
from ms_detr.engine import predict
from ms_detr.evaluation import evaluate
from ms_detr.meta_arch import OUTPUT
from ms_detr.recipes import coco, square_tests
from ms_detr.structures import (
    Predictions,
    PredictionSet,
    QueryMasks,
    output_scale,
    shown_part,
    shown_size,
)
from ms_detr.visualization.scene import pixel_corners

from .modeling.support import SMALLER, make_model

SIDE, GREY = 128, 114
MASKED = "configs/ms_detr/ms_detr_masks_r50_300q_12ep.py"
# (height, width) -> what they are in the square: wide, high, small, narrow and large images.
SIZES = {(60, 100): (77, 128), (100, 60): (128, 77), (20, 30): (85, 128), (90, 250): (46, 128)}
# (x1, y1, x2, y2) in tenths of the image, the last ones up to its edges.
OBJECTS = [(0, 1, 4, 5), (3, 2, 9, 8), (5, 5, 10, 10)]


def boxes_of(height: int, width: int) -> np.ndarray:
    return np.array(OBJECTS) * (width, height, width, height) / 10


@dataclass
class Drawn(QueryMasks):
    """Masks that are given, by image and query."""

    maps: list[torch.Tensor]
    num_layers: int = 1

    def logits(self, image, layer, query):
        return 20 * self.maps[image][query] - 10

    def logits_at(self, points):
        raise NotImplementedError


class Oracle:
    """Predicts what is in an image, which it knows by where the grey of its square begins.

    Besides the objects there is one as large as the square, of a class of its own.
    """

    def __init__(self, model):
        self.mean, self.std = model.pixel_mean, model.pixel_std

    def __call__(self, images, padding_mask):
        assert images.shape[2:] == (SIDE, SIDE) and not padding_mask.any()
        pixels = (images * self.std + self.mean).round()
        logits = torch.full((1, len(images), 4, 6), -20.0)
        boxes = torch.ones(1, len(images), 4, 4) / torch.tensor([2, 2, 1, 1])
        maps = []
        for b, shown in enumerate((pixels != GREY).any(1)):
            rows, columns = int(shown.any(1).sum()), int(shown.any(0).sum())
            assert shown[:rows, :columns].any(0).all() and (rows, columns) in SIZES.values()
            painted = torch.zeros(4, SIDE, SIDE)
            painted[3] = 1
            for q, (x1, y1, x2, y2) in enumerate(OBJECTS):
                left, right = x1 * columns / 10, x2 * columns / 10
                top, bottom = y1 * rows / 10, y2 * rows / 10
                middle = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                boxes[0, b, q] = torch.tensor(middle) / SIDE
                logits[0, b, q, q] = 8.0
                painted[q, round(top) : round(bottom), round(left) : round(right)] = 1
            logits[0, b, 3, 5] = -4.0
            maps.append(painted)
        return Predictions({OUTPUT: PredictionSet(logits, boxes, masks=Drawn(maps))})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DictConfig:
    """A dataset of such images, in a config that tests on squares."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, 1):
        file = f"{number}.png"
        Image.fromarray(rng.integers(0, 100, (height, width, 3), np.uint8)).save(root / file)
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for kind, (x1, y1, x2, y2) in enumerate(boxes_of(height, width).tolist(), 1):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    categories = [{"id": k, "name": f"kind {k}"} for k in range(1, 7)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "val.json").write_text(json.dumps(content))
    dataloader = square_tests(coco(masks=True), SIDE, GREY)
    dataloader.test.dataset.update(
        name="tests_squares", images=str(root), annotations=str(root / "val.json")
    )
    dataloader.test.update(batch_size=3, num_workers=0)
    dataloader.evaluator.output_dir = str(root / "out")
    return DictConfig({"dataloader": dataloader}, flags={"allow_objects": True})


@pytest.fixture
def oracle(monkeypatch):
    model = make_model(*SMALLER, "model.num_classes=6", config=MASKED).eval()
    monkeypatch.setattr(model, "forward_tensors", Oracle(model))
    return model


def check(instances, height: int, width: int) -> None:
    """The objects are where they are annotated, and what is larger than the image is cut."""
    assert instances.image_size == (height, width)
    order = instances.pred_classes[:4].tolist()
    assert sorted(order) == [0, 1, 2, 5] and order[3] == 5
    expected = torch.tensor([*boxes_of(height, width).tolist(), [0, 0, width, height]])
    places = torch.tensor([min(kind, 3) for kind in order])
    found = instances.pred_boxes.tensor[:4]
    torch.testing.assert_close(found.double(), expected[places].double(), rtol=0, atol=1e-4)
    for mask, box in zip(instances.pred_masks[:4], expected[places], strict=True):
        assert mask.shape == (height, width)
        x1, y1, x2, y2 = box.round().int().tolist()
        truth = torch.zeros(height, width, dtype=torch.bool)
        truth[y1:y2, x1:x2] = True
        # A pixel of the square more or less at every edge.
        pixel = max(1, height / SIDE, width / SIDE)
        assert (mask ^ truth).sum() <= 2 * pixel * (x2 - x1 + y2 - y1)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_boxes_and_masks_are_told_in_pixels_of_the_files(oracle, data):
    loader = instantiate(data.dataloader.test)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [3, 1]
    for batch in batches:
        for x, output in zip(batch, oracle(batch), strict=True):
            assert x["image"].shape == (3, SIDE, SIDE)
            assert x["shown_size"] == SIZES[x["height"], x["width"]]
            rows, columns = x["shown_size"]
            assert (x["image"][:, rows:] == GREY).all()
            assert (x["image"][:, :, columns:] == GREY).all()
            check(output["instances"], x["height"], x["width"])


def test_which_part_of_an_image_is_shown():
    """Width first, of all or of a square's upper left; what is beyond belongs to no output."""
    image = torch.zeros(3, 80, 100)
    square = {"image": image, "shown_size": (20, 75)}
    assert shown_size({"image": image}) == (80, 100)
    assert shown_part({"image": image}) == (1, 1)
    assert shown_size(square) == (20, 75)
    assert shown_part(square) == (0.75, 0.25)
    assert output_scale(square) == (100, 80)
    assert output_scale(square | {"height": 10, "width": 150}) == (200, 40)


def test_an_oracle_has_all_of_ap(oracle, data):
    evaluator = instantiate(data.dataloader.evaluator)
    results = evaluate(oracle, instantiate(data.dataloader.test), evaluator)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP50"] == pytest.approx(100)


def test_prediction_of_files_and_arrays(oracle, data):
    records = instantiate(data.dataloader.test.dataset)
    files = [record["file_name"] for record in records]
    for instances, record in zip(predict(oracle, files, data), records, strict=True):
        check(instances, record["height"], record["width"])
    pixels = np.array(Image.open(files[1]))
    check(predict(oracle, pixels, data), *pixels.shape[:2])


def test_targets_are_drawn_where_they_are_in_the_file(oracle, data):
    data = data.copy()
    data.dataloader.test.mapper.is_train = True
    mapper = instantiate(data.dataloader.test.mapper)
    for record in instantiate(data.dataloader.test.dataset):
        inputs = mapper(record)
        targets = oracle.targets([inputs], (SIDE, SIDE))
        corners = pixel_corners(targets.boxes[0], inputs)
        np.testing.assert_allclose(corners, boxes_of(record["height"], record["width"]), atol=1e-3)


def test_the_size_is_known_without_reading(data):
    mapper = instantiate(data.dataloader.test.mapper)
    records = instantiate(data.dataloader.test.dataset)
    assert {mapper.size(record) for record in records} == {(SIDE, SIDE)}


@pytest.mark.parametrize(
    "moved",
    [CropTransform(2, 0, 20, 20), HFlipTransform(60), PadTransform(3, 0, 0, 0, 60, 100)],
    ids=["cut", "turned", "moved"],
)
def test_images_that_cannot_be_told_back(data, moved):
    record = instantiate(data.dataloader.test.dataset)[1]
    with pytest.raises(ValueError, match="resize them and then pad them at the right"):
        DetrMapper([moved], is_train=False)(record)
    assert "image" in DetrMapper([moved])(record)


def test_an_image_larger_than_the_square(data):
    record = instantiate(data.dataloader.test.dataset)[0]
    mapper = DetrMapper([ResizeShortestEdge(60), PadToSquare(64)], is_train=False)
    with pytest.raises(ValueError, match="100 x 60 pixels don't fit into a square of 64"):
        mapper(record)
    with pytest.raises(ValueError, match="size must be positive"):
        PadToSquare(0)
