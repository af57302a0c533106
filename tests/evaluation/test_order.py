"""Batches group images by size: neither their order nor what shares a batch may change a score."""

import json

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ms_detr.evaluation import CocoEvaluator

from .test_coco_evaluator import register

IMAGES = 12


def detections(rng, objects):
    """Of every image, some around its objects; few scores, so that many are equal."""
    made = {}
    for image in range(IMAGES):
        boxes = [box for i, _, box in objects if i == image] * 3
        boxes = np.array(boxes, dtype=float).reshape(-1, 4) + rng.normal(0, 4, (len(boxes), 4))
        instances = Instances((200, 300))
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:].clip(1)), 1)
        instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        instances.scores = torch.from_numpy(rng.choice([0.3, 0.5, 0.9], len(boxes))).float()
        instances.pred_classes = torch.from_numpy(rng.integers(0, 2, len(boxes)))
        made[image] = instances
    return made


def test_order_and_batches_do_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    objects = [
        (int(rng.integers(IMAGES)), int(rng.integers(2)), [float(x) for x in box])
        for box in rng.uniform((10, 10, 20, 20), (180, 100, 90, 80), (40, 4))
    ]
    name = register(tmp_path, objects, images=IMAGES)
    made = detections(rng, objects)
    results, files = [], []
    for order in (np.arange(IMAGES), np.arange(IMAGES)[::-1], rng.permutation(IMAGES)):
        for size in (1, 5):
            folder = tmp_path / f"{len(results)}"
            evaluator = CocoEvaluator(name, str(folder), nms_threshold=0.5, distributed=False)
            evaluator.reset()
            for first in range(0, IMAGES, size):
                batch = [int(i) for i in order[first : first + size]]
                inputs = [{"image_id": image} for image in batch]
                evaluator.process(inputs, [{"instances": made[image]} for image in batch])
            results.append(evaluator.evaluate())
            written = json.loads((folder / "coco_instances_results.json").read_text())
            files.append(sorted(json.dumps(detection) for detection in written))
    assert 5 < results[0]["bbox"]["AP"] < 95
    for result, file in zip(results, files, strict=True):
        assert result == results[0]
        assert file == files[0]
