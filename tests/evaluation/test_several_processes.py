"""Scoring divided among processes: the results of one, to the last digit, which are COCO's."""

import json
import math
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ms_detr.evaluation import CocoEvaluator, coco
from ms_detr.evaluation.detections import Detections, ImageDetections

from ..processes import gloo
from .judge import judge
from .test_coco_evaluator import CATEGORIES, register
from .test_coco_masks import feed, thing

IMAGES = 12


def boxes(rng, count):
    extent = rng.integers(8, 90, (count, 2))
    return [(int(x), int(y), int(w), int(h)) for (x, y), (w, h) in
            zip((rng.uniform(0, 1, (count, 2)) * ((300, 200) - extent)).astype(int), extent,
                strict=True)]  # fmt: skip


def made(rng):
    """Objects, and detections near them: few scores, so that many are equal."""
    objects = [thing(int(rng.integers(IMAGES)), int(rng.integers(2)), box)
               for box in boxes(rng, 40)]  # fmt: skip
    found = []
    for image, k, box, _ in objects:
        x, y, w, h = box
        near = (x, y, max(4, w - int(rng.integers(9))), max(4, h - int(rng.integers(9))))
        found.append((image, k, float(rng.choice([0.25, 0.5, 0.75])), near, near))
        found.append((image, 1 - k, 0.5, box, near))
    return objects, found


def evaluate(rank, meeting, name, folder, found, results):
    with gloo(meeting).joined(rank, rank):
        scored = []
        original = coco.score_classes
        coco.score_classes = lambda *a, **k: scored.append([*a[2]]) or original(*a, **k)
        evaluator = CocoEvaluator(name, folder, nms_threshold=0.6, masks=True)
        feed(evaluator, found, IMAGES)
        evaluator._images = evaluator._images[rank::2]
        mine = dict(evaluator.evaluate())
        trouble = ""
        try:
            wrong = [(0, 7, 0.5, (1, 1, 9, 9), (1, 1, 9, 9))] if rank else []
            feed(evaluator, wrong, 1).evaluate()
        except ValueError as error:
            trouble = f"{type(error).__name__}: {error}"
        results.put((rank, scored, mine, trouble))


def test_two_processes_score_as_one(tmp_path):
    objects, found = made(np.random.default_rng(0))
    name = register(tmp_path, objects, images=IMAGES)
    alone = feed(
        CocoEvaluator(name, str(tmp_path / "alone"), nms_threshold=0.6, masks=True), found, IMAGES
    ).evaluate()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(
            target=evaluate,
            args=(rank, tmp_path / "meeting", name, str(tmp_path / "both"), found, results),
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    (_, first, main, one), (_, second, other, same) = sorted(
        (results.get(timeout=60) for _ in processes), key=lambda result: result[0]
    )
    for process in processes:
        process.join(timeout=60)
    assert first == [[0], [0]] and second == [[1], [1]]  # the classes, of boxes and of masks
    assert other == {}
    assert repr(main) == repr({**alone}) and 5 < main["segm"]["AP"] < 95  # NaN equals NaN
    assert one == same and one.startswith("ConfigError: a detection has class 7")
    files = [
        json.loads((tmp_path / folder / "coco_instances_results.json").read_text())
        for folder in ("alone", "both")
    ]
    assert len(files[0]) == len(found)
    assert sorted(map(json.dumps, files[0])) == sorted(map(json.dumps, files[1]))
    content = json.loads((tmp_path / "annotations.json").read_text())
    for number, annotation in enumerate(content["annotations"], 1):  # 0 means no match there
        annotation |= {"id": number, "iscrowd": 0}
    for kind in ("bbox", "segm"):
        judged = judge(content, files[0], CATEGORIES, kind)
        assert main[kind] == pytest.approx(judged, abs=1e-9, nan_ok=True)
        assert not math.isnan(main[kind]["AP"])


@pytest.mark.parametrize(("threshold", "size"), [(None, 36), (0.7, 37)])
def test_what_a_detection_takes_on_its_way(threshold, size):
    """Bytes, as docs/scaling.md tells them: without masks, in the exchange and for the file."""
    count = 100
    instances = Instances((480, 640))
    corners = torch.rand(count, 2, 2).sort(1).values.flatten(1)
    instances.pred_boxes, instances.scores = Boxes(640 * corners), torch.rand(count)
    instances.pred_classes = torch.arange(count) % 80
    image = ImageDetections.of(2**18, instances, threshold, masks=False)
    few, many = (
        len(pickle.dumps(Detections.join([image] * images, threshold is not None, False)))
        for images in (100, 200)
    )
    assert (many - few) / (100 * count) == pytest.approx(size, abs=0.01)
    written = len(pickle.dumps(image)) / count
    assert size - 8 < written < size
