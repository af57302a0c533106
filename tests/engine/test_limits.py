"""More objects in an image than the model can find, or than are evaluated: said before training."""

import json
import logging

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.engine.datasets import LOADERS, check_datasets
from ms_detr.engine.limits import check_limits, warn_of_limits
from ms_detr.evaluation import CocoEvaluator

CONFIG = "ms_detr/ms_detr_r50_300q_12ep.py"
EVALUATED = "dataloader.evaluator.max_detections"


def test_more_evaluated_than_handed_out():
    check_limits(load(CONFIG, ["model.postprocess.top_k=50"]))  # below COCO's limit: one's own will
    check_limits(load(CONFIG, [f"{EVALUATED}=375", "model.postprocess.top_k=400"]))
    with pytest.raises(ValueError, match=r"max_detections is 375, but .* model.*top_k=375"):
        check_limits(load(CONFIG, [f"{EVALUATED}=375"]))
    check_limits(OmegaConf.create({"model": {}, "dataloader": {"evaluator": {}}}))


def test_a_run_checks_it_first(train):
    limit = "+dataloader.evaluator.max_detections=200"
    with pytest.raises(ValueError, match=r"max_detections is 200, but the model hands out .* 150"):
        train("out", limit, "+model.postprocess={top_k: 150}")


@pytest.fixture
def crowded(tmp_path):
    """A dataset of three images with 120, 40 and no objects, and a crowd that doesn't count."""
    for i in range(3):
        Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(tmp_path / f"{i}.png")
    boxes = [[2 * i, 5, 3, 4] for i in range(120)]
    counts = [120, 40, 0]
    found = [(image, box) for image, count in enumerate(counts) for box in boxes[:count]]
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": i % 2, "bbox": box, "iscrowd": 0}
        for i, (image, box) in enumerate(found)
    ]
    annotations.append({**annotations[0], "id": 1000, "iscrowd": 1})
    content = {
        "images": [{"id": i, "height": 200, "width": 300, "file_name": f"{i}.png"}
                   for i in range(3)],
        "categories": [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}],
        "annotations": annotations,
    }  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    coco_dataset(str(tmp_path), tmp_path, tmp_path / "annotations.json")
    return str(tmp_path)


def test_the_check_of_the_datasets_warns(crowded, caplog):
    cfg = load(CONFIG, ["model.num_classes=2"])
    cfg.dataloader.test.dataset.name = cfg.dataloader.train.dataset.name = crowded
    check_datasets(cfg, LOADERS, [])
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_more_objects_than_the_model_finds(crowded, caplog):
    cfg = load(CONFIG)  # 300 queries, 100 detections
    warn_of_limits(cfg, [crowded, crowded, "one that was loaded otherwise"])
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "1 of 3 images have more objects than the model can find, up to 120 where" in said
    assert "model.postprocess.top_k is 100" in said and "num_queries" not in said
    assert "Set model.postprocess.top_k=120; 20 of 160 objects" in said
    caplog.clear()
    warn_of_limits(load(CONFIG, ["model.num_queries=30"]), [crowded])
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "2 of 3 images" in said and "100 of 160 objects" in said
    assert "Set model.num_queries=120 model.postprocess.top_k=120" in said
    caplog.clear()
    warn_of_limits(load(CONFIG, ["model.postprocess.top_k=120"]), [crowded])
    CocoEvaluator(crowded)  # 60 objects of each class
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
