"""Time and memory of evaluation: ours, with and without NMS, against Detectron2's."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, Instances

from ..evaluation import CocoEvaluator
from .limits import measure_peak

CLASSES = 80
HEIGHT, WIDTH = 480, 640
NAME = "ms_detr_benchmark_evaluation"

# What is compared; the first is what the others' ratios are to.
EVALUATORS: dict[str, Callable[[str], DatasetEvaluator]] = {
    "Detectron2's, pycocotools": lambda folder: COCOEvaluator(
        NAME, ("bbox",), False, folder, use_fast_impl=False
    ),
    "ms_detr's": lambda folder: CocoEvaluator(NAME, folder),
    "ms_detr's, with NMS": lambda folder: CocoEvaluator(NAME, folder, nms_threshold=0.7),
}


def compare_evaluators(images: int = 5000, detections: int = 100) -> list[dict[str, Any]]:
    """Evaluate the same random detections, each evaluator in a process of its own.

    Args:
        images: of seven objects on average, and 80 classes.
        detections: an image.

    Returns:
        A dict an evaluator: CPU seconds from reading the annotations to writing the results, their
        ratio to the first's, the peak of memory in megabytes above that of the detections as the
        model hands them out, and AP.
    """
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        Path(folder, "annotations.json").write_text(json.dumps(_annotations(images)))
        for name in EVALUATORS:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as pool:
                seconds, peak, ap = pool.submit(_measure, name, folder, detections).result()
            first = rows[0]["CPU s"] if rows else seconds
            rows.append(
                {
                    "evaluator": name,
                    "CPU s": seconds,
                    "ratio": seconds / first,
                    "peak MB": peak,
                    "AP": ap,
                }
            )
    return rows


def _measure(name: str, folder: str, count: int) -> tuple[float, float, float]:
    """CPU seconds, peak of memory and AP, in this process."""
    torch.set_num_threads(1)
    path = Path(folder, "annotations.json")
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_classes=[str(k) for k in range(CLASSES)],
        thing_dataset_id_to_contiguous_id={k + 1: k for k in range(CLASSES)},
    )
    outputs = _detections(json.loads(path.read_text()), count)
    found: dict[str, float] = {}

    def evaluate() -> None:
        start = time.process_time()
        evaluator = EVALUATORS[name](folder)
        evaluator.reset()
        for image, instances in outputs:
            evaluator.process([{"image_id": image}], [{"instances": instances}])
        found["ap"] = evaluator.evaluate()["bbox"]["AP"]
        found["seconds"] = time.process_time() - start

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        peak = measure_peak(evaluate, "cpu")
    return found["seconds"], peak, found["ap"]


def _annotations(images: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for box in _boxes(rng, int(rng.integers(15))).tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, CLASSES + 1)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(images)
        ],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)],
        "annotations": annotations,
    }


def _detections(content: dict[str, Any], count: int) -> list[tuple[int, Instances]]:
    """By image: half of them near objects, of their class, the others anywhere."""
    rng = np.random.default_rng(1)
    objects: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    outputs = []
    for image, mine in objects.items():
        boxes, classes = _boxes(rng, count), rng.integers(0, CLASSES, count)
        for i in range(count // 2 if mine else 0):
            chosen = mine[rng.integers(len(mine))]
            boxes[i] = np.array(chosen["bbox"]) + rng.normal(0, 5, 4)
            classes[i] = chosen["category_id"] - 1
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:].clip(1)
        instances = Instances((HEIGHT, WIDTH))
        instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.scores = torch.from_numpy(rng.random(count)).float()
        instances.pred_classes = torch.from_numpy(classes)
        outputs.append((image, instances))
    return outputs


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(x, y, width, height) of some boxes within the image."""
    sizes = rng.uniform(5, 200, (count, 2))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sizes), sizes], 1)
