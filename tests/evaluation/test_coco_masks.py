"""Mask AP: against hand-made cases, Detectron2's evaluator and pycocotools on the written file."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ms_detr.data import DetrMapper, coco_dataset
from ms_detr.data.demo_shapes import run_lengths
from ms_detr.evaluation import CocoEvaluator, format_results

from .test_coco_evaluator import register

HEIGHT, WIDTH = 200, 300
SMALL, MEDIUM, LARGE = (10, 10, 20, 20), (100, 50, 60, 60), (120, 20, 120, 160)


def polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def bitmap(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def runs(box):
    return {"size": [HEIGHT, WIDTH], "counts": run_lengths(bitmap(*box))}


def thing(image, k, box, segmentation=None, **more):
    """An object whose mask fills its box, unless one is given."""
    extra = {"segmentation": segmentation or polygon(*box), "area": box[2] * box[3], **more}
    return image, k, box, extra


def feed(evaluator, detections, images=3, size=(HEIGHT, WIDTH)):
    """Give detections (image id, class, score, box xywh, box that the mask fills)."""
    evaluator.reset()
    for image in range(images):
        mine = [d for d in detections if d[0] == image]
        boxes = torch.tensor([d[3] for d in mine], dtype=torch.float32).reshape(-1, 4)
        instances = Instances((HEIGHT, WIDTH))
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        instances.scores = torch.tensor([float(d[2]) for d in mine])
        instances.pred_classes = torch.tensor([d[1] for d in mine], dtype=torch.int64)
        masks = np.zeros((len(mine), *size), bool)
        for mask, detection in zip(masks, mine, strict=True):
            mask[:] = bitmap(*detection[4])[: size[0], : size[1]]
        instances.pred_masks = torch.from_numpy(masks)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator


def results(name, detections, **options):
    return feed(CocoEvaluator(name, masks=True, **options), detections).evaluate()


def detections_of(objects, score=0.9):
    return [(image, k, score, box, box) for image, k, box, _ in objects]


def test_perfect_masks(tmp_path):
    objects = [thing(0, 0, SMALL), thing(1, 1, MEDIUM, runs(MEDIUM)), thing(1, 0, LARGE)]
    found = results(register(tmp_path, objects), detections_of(objects))
    assert list(found) == ["bbox", "segm"]
    for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-square", "AP-bar"):
        assert found["segm"][metric] == pytest.approx(100.0), metric
        assert found["bbox"][metric] == pytest.approx(100.0), metric


def test_shifted_masks_lose_the_strict_thresholds(tmp_path):
    name = register(tmp_path, [thing(0, 0, (0, 0, 100, 100))])
    # The mask's IoU is 0.76: right at 0.5, 0.55, ... 0.75, six of ten thresholds.
    found = results(name, [(0, 0, 0.9, (0, 0, 100, 100), (0, 0, 76, 100))])
    assert found["segm"]["AP"] == pytest.approx(60.0)
    assert found["bbox"]["AP"] == pytest.approx(100.0)


def test_area_is_the_mask_s(tmp_path):
    """A false positive counts where its area lies: small as a mask, medium as a box."""
    objects = [thing(0, 0, MEDIUM), thing(1, 0, SMALL)]
    wrong = (2, 0, 0.95, MEDIUM, SMALL)
    found = results(register(tmp_path, objects), [*detections_of(objects), wrong])
    assert found["segm"]["APs"] < 60 and found["segm"]["APm"] == pytest.approx(100.0)
    assert found["bbox"]["APm"] < 60 and found["bbox"]["APs"] == pytest.approx(100.0)
    # So does an object's whose area the file lacks: its mask is small, its box medium.
    lacking = [thing(0, 0, MEDIUM, polygon(*SMALL), area=None)]
    found = results(register(tmp_path, lacking), [(0, 0, 0.9, MEDIUM, SMALL)])
    assert found["segm"]["APs"] == pytest.approx(100.0) and math.isnan(found["segm"]["APm"])


def test_nothing_detected_nothing_there_and_crowds_alone(tmp_path):
    name = register(tmp_path, [thing(0, 0, SMALL)])
    found = results(name, [], nms_threshold=0.5)
    assert list(found) == ["bbox", "bbox_nms", "segm", "segm_nms"]
    assert all(values["AP"] == 0.0 for values in found.values())
    name = register(tmp_path, [])
    found = results(name, [(0, 0, 0.9, SMALL, SMALL)], output_dir=str(tmp_path))
    assert math.isnan(found["segm"]["AP"])
    assert json.loads((tmp_path / "results.json").read_text())["segm"]["AP"] is None
    name = register(tmp_path, [thing(0, 0, LARGE, runs(LARGE), iscrowd=1)])
    assert math.isnan(results(name, [(0, 0, 0.9, MEDIUM, MEDIUM)])["segm"]["AP"])


def test_detections_in_a_crowd_are_ignored(tmp_path):
    objects = [thing(0, 0, SMALL), thing(0, 0, LARGE, runs(LARGE), iscrowd=1)]
    inside = [(0, 0, 0.95, (130, 30, 20, 20), (130, 30, 20, 20))]
    name = register(tmp_path, objects)
    assert results(name, detections_of(objects[:1]) + inside)["segm"]["AP"] == pytest.approx(100.0)


def test_empty_masks_find_nothing(tmp_path):
    objects = [thing(0, 0, SMALL), thing(1, 0, MEDIUM)]
    name = register(tmp_path, objects)
    nothing = (0, 0, 0, 0)
    found = results(name, [(i, k, 0.9, box, nothing) for i, k, box, _ in objects])
    assert found["segm"]["AP"] == 0.0 and found["bbox"]["AP"] == pytest.approx(100.0)
    # An object without pixels can't be found either, which COCO holds against the model.
    thin = register(tmp_path, [thing(0, 0, SMALL, polygon(10, 10, 0.05, 20))])
    assert results(thin, [(0, 0, 0.9, SMALL, nothing)])["segm"]["AP"] == 0.0


def test_masks_of_what_survives_nms(tmp_path):
    objects = [thing(0, 0, SMALL), thing(1, 0, MEDIUM)]
    duplicate = (0, 0, 0.95, (11, 10, 20, 20), SMALL)
    worse = [(0, 0, 0.8, SMALL, (10, 10, 12, 20)), (1, 0, 0.7, MEDIUM, MEDIUM)]
    found = results(register(tmp_path, objects), [duplicate, *worse], nms_threshold=0.7)
    assert found["segm_nms"]["AP"] == pytest.approx(100.0)
    assert found["segm"]["AP"] < 90


def test_more_than_255_masks_of_a_class(tmp_path):
    """Of a list of masks pycocotools 2.0.11 counts the length in a byte."""
    objects = [thing(image, 0, SMALL) for image in range(3)]
    detections = [(i % 3, 0, 0.9 - i / 1000, SMALL, SMALL) for i in range(258)]
    found = results(register(tmp_path, objects), detections)
    assert found["segm"]["AP"] == pytest.approx(100.0)


def scattered():
    generator = np.random.default_rng(0)

    def boxes(count):
        return generator.integers(5, 100, (count, 4)).tolist()

    objects = [
        thing(i % 3, i % 2, box, runs(box) if i % 7 == 0 else None, iscrowd=int(i % 7 == 0))
        for i, box in enumerate(boxes(30))
    ]
    for number, item in enumerate(objects):
        item[3]["id"] = number + 1
    detections = [
        (image, k, generator.random(), box, [v + int(generator.integers(0, 12)) for v in box])
        for image, k, box, _ in objects * 4
    ]
    return objects, detections


@pytest.mark.filterwarnings("ignore::UserWarning")  # Detectron2's
def test_agrees_with_detectron2(tmp_path):
    objects, detections = scattered()
    name = register(tmp_path, objects)
    evaluator = COCOEvaluator(name, ("bbox", "segm"), False, use_fast_impl=False)
    theirs = feed(evaluator, detections).evaluate()
    ours = results(name, detections)
    for task in ("bbox", "segm"):
        assert 5 < ours[task]["AP"] < 95
        common = {name: ours[task][name] for name in theirs[task]}
        assert common == pytest.approx(theirs[task], nan_ok=True)
    assert ours["segm"]["AP"] != pytest.approx(ours["bbox"]["AP"], abs=1)


def test_the_written_file_is_coco_s(tmp_path):
    objects, detections = scattered()
    name = register(tmp_path, objects)
    found = results(name, detections, output_dir=str(tmp_path))
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert set(written[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert written[0]["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert isinstance(written[0]["segmentation"]["counts"], str)
    truth = COCO(tmp_path / "annotations.json")
    without_boxes = [{k: v for k, v in d.items() if k != "bbox"} for d in written]
    scoring = COCOeval(truth, truth.loadRes(without_boxes), "segm")
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    assert scoring.stats[0] * 100 == pytest.approx(found["segm"]["AP"])
    assert "segm" in format_results(found)


def test_training_targets_are_what_evaluation_looks_for(demo_dataset):
    """Files to targets to detections; the crowds, which targets leave out, are ignored."""
    path = demo_dataset / "annotations" / "val.json"
    records = coco_dataset("tests_mask_ap", demo_dataset / "val", path, masks=True)
    mapper = DetrMapper([], masks=True)
    evaluator = CocoEvaluator("tests_mask_ap", masks=True, nms_threshold=0.9)
    for record in records:
        x = mapper(record)
        targets = x["instances"]
        found = Instances(targets.image_size, pred_boxes=targets.gt_boxes)
        found.pred_classes, found.pred_masks = targets.gt_classes, targets.gt_masks.tensor
        found.scores = torch.linspace(0.9, 0.5, len(targets))
        evaluator.process([x], [{"instances": found}])
    aps = [values["AP"] for values in evaluator.evaluate().values()]
    assert aps == pytest.approx([100.0] * 4)


def test_masks_that_nobody_asked_for_are_left_alone(tmp_path):
    objects = [(0, 0, SMALL)]  # without segmentation
    name = register(tmp_path, objects)
    evaluator = CocoEvaluator(name, str(tmp_path))
    feed(evaluator, [(0, 0, 0.9, SMALL, SMALL)])
    assert list(evaluator.evaluate()) == ["bbox"]
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert set(written[0]) == {"image_id", "category_id", "bbox", "score"}


def test_sizes_may_be_written_as_decimals(tmp_path):
    objects = [thing(0, 0, SMALL), thing(1, 1, MEDIUM, runs(MEDIUM))]
    name = register(tmp_path, objects)
    content = json.loads((tmp_path / "annotations.json").read_text())
    for image in content["images"]:
        image |= {"height": 200.0, "width": 300.0}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert results(name, detections_of(objects))["segm"]["AP"] == pytest.approx(100.0)


def test_wrong_use(tmp_path):
    name = register(tmp_path, [thing(0, 0, SMALL)])
    instances = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.zeros(0, 4)))
    instances.scores, instances.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="predicts no masks: .* set dataloader.masks=false"):
        CocoEvaluator(name, masks=True).process([{"image_id": 0}], [{"instances": instances}])
    evaluator = CocoEvaluator(name, masks=True)
    feed(evaluator, [(0, 0, 0.9, SMALL, SMALL)], size=(100, 150))
    with pytest.raises(ValueError, match=r"masks of image 0 are \[100, 150\], .* \[200, 300\]"):
        evaluator.evaluate()
    bad = [thing(0, 0, SMALL), (0, 0, MEDIUM, {"segmentation": [[1, 2, 3]]}), (1, 0, SMALL)]
    with pytest.raises(ValueError, match=r"annotations\.json: 2 of 3 .* annotation 1 has the poly"):
        results(register(tmp_path, bad), [])
