"""Every metric against pycocotools, on random data with all that is awkward in it."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.evaluation import CocoEvaluator

from .judge import judge

HEIGHT, WIDTH = 120, 160
NAMES = {3: "ant", 5: "bee", 8: "cat", 9: "dog"}  # of which the last is never there


def random_content(rng: np.random.Generator, images: int, objects: int) -> dict:
    """Objects of all sizes, of which areas lie on the borders too; crowds; images without any."""
    annotations = []
    for number in range(objects):
        w, h = rng.choice([4, 16, 31, 32, 33, 64, 95, 96, 100], 2).tolist()
        x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
        box = [float(x), float(y), w, h]
        annotations.append({
            "id": number + 1,
            "image_id": int(rng.integers(1, images + 1)) * 7,
            "category_id": int(rng.choice([3, 5, 8])),
            "bbox": box,
            "area": w * h * float(rng.choice([1, 0.5])),
            "iscrowd": int(rng.random() < 0.15),
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        })  # fmt: skip
    for annotation in annotations:
        annotation["segmentation"] = [[float(v) for v in annotation["segmentation"][0]]]
    return {
        "images": [
            {"id": 7 * i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": NAMES[i]} for i in NAMES],
        "annotations": annotations,
    }


def random_instances(rng: np.random.Generator, content: dict, image: int, count: int) -> Instances:
    """Detections near objects and elsewhere, of few scores, so that many tie."""
    mine = [a for a in content["annotations"] if a["image_id"] == image]
    boxes = np.empty((count, 4), np.float32)
    classes = rng.integers(0, 3, count)
    for i in range(count):
        if mine and rng.random() < 0.7:
            chosen = mine[rng.integers(len(mine))]
            boxes[i] = np.array(chosen["bbox"]) + rng.integers(-4, 5, 4) * rng.integers(0, 2)
            classes[i] = [3, 5, 8].index(chosen["category_id"])
        else:
            boxes[i] = rng.uniform(0, 60, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(
        torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    )
    instances.scores = torch.from_numpy(rng.integers(1, 9, count) / 8).float()
    instances.pred_classes = torch.from_numpy(classes)
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask, (x, y, w, h) in zip(masks, boxes.round().astype(int), strict=True):
        mask[max(y, 0) : y + h, max(x, 0) : x + w] = True
    instances.pred_masks = torch.from_numpy(masks)
    return instances


def register(folder, content: dict) -> str:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    name = str(folder)
    MetadataCatalog.get(name).json_file = str(path)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scoring")


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 4),
    objects=st.integers(0, 25),
    detections=st.integers(0, 30),
    most=st.sampled_from([1, 5, 12, 100, 200]),
)
def test_every_metric_is_pycocotools(folder, seed, images, objects, detections, most):
    rng = np.random.default_rng(seed)
    content = random_content(rng, images, objects)
    name = register(folder, content)
    evaluator = CocoEvaluator(name, str(folder), 0.6, False, masks=True, max_detections=most)
    survivors = []
    for image in rng.permutation([i["id"] for i in content["images"]]).tolist():
        count = int(rng.integers(0, detections + 1))
        evaluator.process([{"image_id": image}], [
            {"instances": random_instances(rng, content, image, count)}
        ])  # fmt: skip
        survivors += evaluator._images[-1].survives.tolist()
    ours = evaluator.evaluate()
    assert list(ours) == ["bbox", "bbox_nms", "segm", "segm_nms"]
    written = json.loads((folder / "coco_instances_results.json").read_text())
    left = [d for d, survives in zip(written, survivors, strict=True) if survives]
    for kind in ("bbox", "segm"):
        for task, found in ((kind, written), (f"{kind}_nms", left)):
            theirs = judge(content, found, NAMES, kind, most)
            assert ours[task] == pytest.approx(theirs, rel=0, abs=1e-9, nan_ok=True), task


@pytest.mark.parametrize("first", [2**53, 20230101123456789, 2**62])
def test_image_ids_of_any_size(tmp_path, first):
    """Ids that differ by one are one number to a double."""
    rng = np.random.default_rng(4)
    content = random_content(rng, 4, 25)
    ids = [image["id"] for image in content["images"]]
    found = {image: random_instances(rng, content, image, 12) for image in ids}
    number = dict(zip(ids, range(first, first + 4), strict=True))
    results = []
    for new in ({image: image for image in ids}, number):
        for entry in content["images"] + content["annotations"]:
            key = "id" if "file_name" in entry else "image_id"
            entry[key] = new[entry[key]]
        folder = tmp_path / str(len(results))
        folder.mkdir()
        evaluator = CocoEvaluator(register(folder, content), None, 0.6, False, masks=True)
        for image in ids:
            evaluator.process([{"image_id": new[image]}], [{"instances": found[image]}])
        results.append(evaluator.evaluate())
    for task, expected in results[0].items():
        assert results[1][task] == pytest.approx(expected, nan_ok=True), task
